package netstack

import "errors"

func openTUN(name string, mtu int) (Device, error) { return nil, errors.ErrUnsupported }
