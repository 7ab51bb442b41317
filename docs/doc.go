// Package docs holds the project's documents, and the tests that keep them true: the import rules of
// ARCHITECTURE.md and the tables of the README.
package docs
