package agent

import (
	"os"
	"testing"

	"migrationsensor/agent/hostnet"
)

// TestMain lets the janitor that hostnet starts from this binary do its work.
func TestMain(m *testing.M) {
	if hostnet.JanitorMain() {
		return
	}
	os.Exit(m.Run())
}
