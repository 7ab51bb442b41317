package kernel

import (
	"errors"
	"net/netip"
)

// Ours are the ranges that the lab's addresses come from (RFC 2544, RFC 5180). Nobody on the
// internet has them.
var Ours = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:2::/48")}

// ErrOutside says that the caller is not inside a lab.
var ErrOutside = errors.New("this is not a lab namespace (they are made by ms-lab and marked by it, or by a compose file with the lab's addresses only)")

// ErrNoSandbox says that this machine or user can't have the lab; what wraps it says why.
var ErrNoSandbox = errors.New("no lab on the real kernel here")
