//go:build race

package memory

const racing = true
