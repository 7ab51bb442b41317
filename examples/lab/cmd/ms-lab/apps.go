package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"time"

	"migrationsensor/examples/lab/app"
)

type crowdCmd struct{}

// Run serves until the one who started it closes standard input.
func (crowdCmd) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := rpc.NewServer()
	if err := s.Register(app.NewCrowd(ctx)); err != nil {
		return err
	}
	s.ServeConn(standard{os.Stdin, os.Stdout})
	return nil
}

// standard joins standard input and output.
type standard struct {
	io.ReadCloser
	io.Writer
}

type originCmd struct {
	At string `arg:"" help:"ADDRESS:PORT to serve transfers at."`
}

func (c *originCmd) Run(ctx context.Context) error {
	l, err := net.Listen("tcp", c.At)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	app.ServeTransfers(l)
	return nil
}

type transferCmd struct {
	To   netip.AddrPort `arg:"" help:"ADDRESS:PORT."`
	Size int64          `default:"1048576" help:"Bytes each way (default ${default})."`
	Seed uint64         `help:"Makes the bytes."`
}

// Run prints a line of app.Report now and then and a last one with the result.
func (c *transferCmd) Run(ctx context.Context) error {
	d := net.Dialer{Timeout: 10 * time.Second}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", c.To.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	p := &app.Progress{}
	out := json.NewEncoder(os.Stdout)
	done := make(chan struct{})
	var last app.Report
	go func() {
		defer close(done)
		var terr error
		if last.Result, terr = app.Transfer(ctx, conn, c.Size, c.Seed, p); terr != nil {
			last.Error = terr.Error()
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := out.Encode(app.Report{Bytes: p.Bytes()}); err != nil {
				return err
			}
		case <-done:
			last.Bytes, last.Done = p.Bytes(), true
			if err := out.Encode(last); err != nil {
				return err
			}
			if last.Error != "" {
				return errors.New(last.Error)
			}
			return nil
		}
	}
}
