package hostnet

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// JanitorPID is the process that cleans up after a SIGKILL.
func (h *Host) JanitorPID() int { return h.janitor.cmd.Process.Pid }

// RuleStrings describes the rules of one protected address.
func RuleStrings(p netip.AddrPort, tun netip.Addr) (all []string) {
	for _, r := range rulesFor(p, tun) {
		all = append(all, describe(r))
	}
	return all
}

// StartTime fails for a process that is gone.
var StartTime = startTime

func describe(r *netlink.Rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", r.Priority)
	if r.Src != nil {
		fmt.Fprintf(&b, " from %s", r.Src)
	}
	fmt.Fprintf(&b, " to %s tcp %d", r.Dst, r.Dport.Start)
	if r.Mask != nil {
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.Mark, *r.Mask)
	}
	fmt.Fprintf(&b, " lookup %d", r.Table)
	return b.String()
}
