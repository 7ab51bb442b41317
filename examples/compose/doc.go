// Package compose is the docker compose demo: the whole system in containers. README.md beside this file says what to do with
// it; the tests here hold compose.yaml, README and the real engine together.
package compose
