//go:build !linux

package container

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Router is the internet between clients and proxies, on Linux.
type Router struct {
	Gateways []netip.Prefix
	Services netip.Prefix
	Hosts    []netip.Addr
	Nobody   netip.Addr
	Back     map[netip.Prefix]netip.Addr
}

// Run says that containers are Linux's.
func (Router) Run(context.Context, func(string, ...any)) error {
	return fmt.Errorf("the router runs in a container on Linux: %w", errors.ErrUnsupported)
}
