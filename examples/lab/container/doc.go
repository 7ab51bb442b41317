// Package container is what runs inside the containers of examples/compose beside proxyd and ms-agent: the router that is the
// internet, the origin, the operator who makes the fleet and its tokens, the applications, and the hand that make compose-demo
// reaches into a container with.
package container
