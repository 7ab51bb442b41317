// Package demo plays the paper's scenario in the lab, live: peace, a flood on P1, detection, the
// move to a proxy that nobody knew, suspension of P1, the flood's end, the death of the next proxy, a drain, peace again. Unmodified curl
// fetches the paper's 760 KB file over and over, each time by a new connection, through three
// agents and, beside them, without one; every file's digest is compared. An ssh session and a download live through
// it all. The proxies and agents are
// the real programs, started as children in the lab's namespaces and read over their control
// sockets. What it measured goes to out/demo.json, and PASS or FAIL is the exit status.
package demo
