package app

import (
	"io"
	"net/http/httptest"
	"testing"
	"time"
)

func TestStreamEndsWholeWhenItIsTold(t *testing.T) {
	s := &Stream{Every: time.Millisecond, Piece: 1000}
	server := httptest.NewServer(s)
	defer server.Close()
	res, err := server.Client().Get(server.URL + "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := NewReader()
	if _, err := io.CopyN(r, res.Body, 20_000); err != nil {
		t.Fatal(err)
	}
	rest := make(chan error, 1)
	go func() { _, err := io.Copy(r, res.Body); rest <- err }()
	digest, n, err := s.Finish("x", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-rest; err != nil {
		t.Fatal(err)
	}
	if got, m := r.Sum(); got != digest || m != n || n < 20_000 {
		t.Errorf("%d bytes came, %d were served, the same %v", m, n, got == digest)
	}
	if r.Count() == 0 {
		t.Error("no arrival was noted")
	}
}
