// Package agent is the client side of Migration Sensor: the machine on which the paper's Client Connection Handler
// runs (section 3.1). It joins the parts and gives them one lifetime.
//
//	application ─ TUN ─ netstack ─ connhandler ─ stream ═ session ═ link ── proxy
//
// An [Agent] enrols once with a token, leads the fleet's protected addresses into its TUN, and does what the paper's
// notifications ask: it moves to another proxy on a migration, and follows a transfer when it connects.
//
// What ties it to an anchor is a tether: a session, and the data links that carry it at the time, one or a few as they
// are used. A session outlives links: on a migration, or when a link is reset or falls silent, a new link is opened by
// way of another edge (or the same) and the session goes on there; the old links deliver until the anchor has answered.
// At a move that nobody's attack asks for, the new link of a session that carries much is warmed first, beside the old one.
// Only when no edge can be reached for 90 s are its streams reset. Services with the same anchor share a tether.
//
// The control link to the current edge is apart from that. Either may die alone: its loss moves no data. At a move the
// data links come first. Where the catalogue has another entry a second control link is kept warm there; catalogue and
// keys are taken from it, but no migration.
//
// A program that embeds the agent sets [Config.NoTUN] and calls [Agent.DialContext]; that needs no rights and no TUN.
//
// # Files
//
// In its state directory (0700) lie key.pem, the private key, which never leaves it, and agent.json: certificates,
// catalogue, admission keys and the edge that it was told to use last. Both are replaced as a whole, never in part. An
// address given ahead (rescue = "standby") is kept in memory only.
package agent
