package container

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
)

// finishPort is the origin's own, on its loopback: there it is told to end a download.
const finishPort = 8099

// Finished is what the origin served of a download.
type Finished struct {
	Digest string // of SHA-256, hexadecimal
	Bytes  int64
}

// Origin serves what the protected server of the lab serves: the file, echo, ssh and downloads without an end.
func Origin(ctx context.Context) error {
	stream := fleet.NewStream()
	return serve(ctx, map[string]func(net.Listener) error{
		port(lab.OriginWeb):    web,
		port(lab.OriginEcho):   echo,
		port(lab.OriginStream): func(l net.Listener) error { return http.Serve(l, stream) },
		port(lab.OriginSSH): func(l net.Listener) error {
			s, err := app.NewSSHServer(l, true)
			if err != nil {
				return err
			}
			<-ctx.Done()
			s.Close()
			return nil
		},
		net.JoinHostPort("127.0.0.1", strconv.Itoa(finishPort)): func(l net.Listener) error { return http.Serve(l, finisher(stream)) },
	})
}

// Site serves the file, on a port of the web: a server that nobody protects.
func Site(ctx context.Context) error {
	return serve(ctx, map[string]func(net.Listener) error{port(lab.WebPort): web})
}

func port(n int) string { return ":" + strconv.Itoa(n) }

func web(l net.Listener) error { return http.Serve(l, fleet.Web(fleet.MakeFile())) }

func echo(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // its end shows
		}()
	}
}

func finisher(s *app.Stream) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /finish/{name}", func(w http.ResponseWriter, r *http.Request) {
		digest, n, err := s.Finish(r.PathValue("name"), 15*time.Second)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(Finished{hex.EncodeToString(digest[:]), n}) // the asker has gone: nobody to tell
	})
	return mux
}

// finish asks the origin beside us to end a download.
func finish(ctx context.Context, name string) (f Finished, err error) {
	req, err := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("http://127.0.0.1:%d/finish/%s", finishPort, name), nil)
	if err != nil {
		return f, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return f, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
		return f, fmt.Errorf("finish %s: %s", name, b)
	}
	return f, json.NewDecoder(res.Body).Decode(&f)
}

// serve serves each address until ctx is done or one of them fails.
func serve(ctx context.Context, at map[string]func(net.Listener) error) error {
	failed := make(chan error, len(at))
	for address, run := range at {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		defer l.Close()
		go func() { failed <- run(l) }()
	}
	if err := Ready(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return nil
		}
		return err
	}
}
