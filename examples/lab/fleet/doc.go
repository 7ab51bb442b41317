// Package fleet puts our programs into the lab's world: signing node, edges and agents are the real
// ones, started as children in the lab's namespaces, read over their control sockets and flooded by
// an attacker of its own. The protected server is there too, and a fetch of its file by blocking
// system calls. What is measured with all this is its user's.
package fleet
