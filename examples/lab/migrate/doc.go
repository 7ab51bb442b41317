// Package migrate measures, on the real kernel, what a connection feels when its proxy is left: by a planned move, because its
// links were reset, because it fell silent. It also moves 1 GiB each way through twenty moves and compares digests, moves
// thousands of sessions at once, and weighs an idle session and an idle stream. It writes out/migrate.json and out/migrate.html.
//
// The world is the demo's: P1 and a second entry that anyone may know, P2 and P3 that nobody knows, and an anchor of its own
// beside the origin, so that no edge's end is a stream's end. Agents may move as often as they are told (dwell 0, no limit):
// else the bench would mostly wait.
//
// A stall is the longest wait between two echoes of a connection that sends 32 bytes each 10 ms, less those 10 ms, around
// the event. kind = none is the same with no event: what this machine does to it by itself.
package migrate
