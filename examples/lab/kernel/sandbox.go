package kernel

import "errors"

// ErrOutside says that the caller is not inside a lab.
var ErrOutside = errors.New("this is not a lab namespace (they are made by ms-lab and marked by it)")

// ErrNoSandbox says that this machine or user can't have the lab; what wraps it says why.
var ErrNoSandbox = errors.New("no lab on the real kernel here")
