// Package agent is the client side of Migration Sensor: the machine on which the paper's Client Connection Handler
// runs (section 3.1). It joins the parts and gives them one lifetime.
//
//	application ─ TUN ─ netstack ─ connhandler ─ stream ═ session ═ link ── proxy
//
// An [Agent] enrols once with a token, keeps a control link and a data link to its current edge, leads the fleet's
// protected addresses into its TUN, and does what the paper's notifications ask: it moves to another proxy on a
// migration, and follows a transfer when it connects. It makes before it breaks: new streams use the new links, old
// ones end where they are.
//
// A program that embeds the agent sets [Config.NoTUN] and calls [Agent.DialContext]; that needs no rights and no TUN.
//
// # Files
//
// In its state directory (0700) lie key.pem, the private key, which never leaves it, and agent.json: certificates,
// catalogue, admission keys and the edge that it was told to use last. Both are replaced as a whole, never in part.
package agent
