// Package kernel makes small worlds out of the real kernel: one program re-executes itself into
// fresh network, mount and process namespaces (and a user namespace when it is not root), makes as
// many network namespaces inside as it needs, and joins them by veth pairs, bridges and user-space
// links with delay, loss and rate.
//
// Each network namespace is anonymous: a file descriptor and one operating-system thread that
// lives as long as the program. Sockets opened on that thread stay in its namespace and may be
// served by ordinary goroutines; programs started from it live there too. There is nothing in
// /run/netns and nothing to clean up: when the outer process ends, by whatever way, the kernel
// removes everything.
//
// Importing this package locks the main goroutine to the main thread, so that the main thread can
// never end in a foreign namespace.
package kernel
