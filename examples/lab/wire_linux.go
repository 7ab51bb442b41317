package lab

import (
	"fmt"
	"net"

	"migrationsensor/examples/lab/kernel"
)

// Cable is a proxy's way to the internet, opened so that a flood can be mixed into it (flood.NewWire).
type Cable struct {
	NS     *kernel.Namespace // the cable's own, without addresses: what comes in at one end must be passed to the other
	Client string            // its end towards the internet
	Edge   string            // its end towards the proxy
	Proxy  string            // the proxy's interface
	MAC    net.HardwareAddr  // and its address
}

// OpenCable takes away a proxy's cable and gives it an open one. Its interface is called dev from now on, a name that
// should be unlike any other's on the machine, for the kernel's threads are called after it. The proxy's programs must
// not run yet.
func (w *World) OpenCable(proxy *kernel.Namespace, at host, dev string) (c *Cable, err error) {
	c = &Cable{Client: dev + "c", Edge: dev + "e", Proxy: dev}
	if c.NS, err = kernel.NewNamespace("cable-"+proxy.Name, nil); err != nil {
		return nil, fmt.Errorf("open the cable of %s: %w", proxy.Name, err)
	}
	w.more = append(w.more, c.NS)
	router := &kernel.Plug{In: w.Router, Name: proxy.Name, Addrs: linkLocal(gateway6)}
	client, edge := &kernel.Plug{In: c.NS, Name: c.Client}, &kernel.Plug{In: c.NS, Name: c.Edge}
	machine := &kernel.Plug{In: proxy, Name: dev}
	steps := []func() error{
		func() error { return proxy.Unplug(Uplink) }, // with the router's end
		func() error { return kernel.Veth(router, client) },
		func() error { return kernel.Veth(edge, machine) },
	}
	for _, p := range []*kernel.Plug{router, client, edge, machine} {
		steps = append(steps, func() error { return p.In.AsWire(p.Name) })
	}
	steps = append(steps,
		func() error { return w.join(router, machine, at, at) },
		func() error { return c.NS.Neighbour(c.Edge, at.V4, machine.MAC) }, // for floods that go by the kernel
		func() error { return c.NS.Route(kernel.Route{To: single(at.V4), Dev: c.Edge}) },
	)
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, fmt.Errorf("open the cable of %s: %w", proxy.Name, err)
		}
	}
	c.MAC = machine.MAC
	return c, nil
}

// AddNear adds a client's machine that hangs on the router by Ethernet: what one program measures from there has no link of ours
// in it.
func (w *World) AddNear(name string, at host) (*kernel.Namespace, error) {
	ns, err := kernel.NewNamespace(name, nil)
	if err != nil {
		return nil, fmt.Errorf("add %s: %w", name, err)
	}
	w.more = append(w.more, ns)
	if err := w.plugIn(ns, at, Uplink); err != nil {
		return nil, fmt.Errorf("add %s: %w", name, err)
	}
	return ns, nil
}
