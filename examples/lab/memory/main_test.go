package memory

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"
)

// seed plays the faults of an earlier run again. The order of packets is not replayed: goroutines choose it.
var seed = flag.Uint64("seed", 0, "of the links' faults; 0 takes another each time")

// TestMain fails if goroutines are left when every test has closed its world.
func TestMain(m *testing.M) {
	worlds := "8" // they wait much longer than they work; the command line may still choose
	if racing {
		worlds = "4"
	}
	_ = flag.Set("test.parallel", worlds)
	flag.Parse()
	before := runtime.NumGoroutine()
	code := m.Run()
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before && code == 0 {
		fmt.Printf("%d goroutines are left of %d\n", n, before)
		_ = pprof.Lookup("goroutine").WriteTo(os.Stdout, 1)
		code = 1
	}
	os.Exit(code)
}
