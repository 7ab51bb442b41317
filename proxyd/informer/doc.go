// Package informer is the paper's Informer (section 4.2): it decides which client goes to which next
// proxy and writes the notifications that make it so.
//
// The paper's two ways to move a client are two methods here:
//
//   - migration, for connected agents: Migrate sends the current user connections' information
//     (USERINFO) to each next proxy, then the migration notification (MIGRATE) on each control link;
//   - transfer, for newcomers: Transfer answers a client that the SYN Checker verified with the
//     sealed transfer notification (TRANSFER) and tells the next proxy whom to admit (RATIFY, the
//     paper's ratify notification; RATIFY_OK is its approval).
//
// Assignment needs no memory and no coordinator: the next proxies are ranked for each agent by a
// rendezvous hash, so asking again discloses nothing new. Those that are attacked or busy are
// skipped; a neighbour whose peer link is down comes last but is still usable, because the handover
// key lets this proxy make the client's key for it without a word from it.
//
// The package opens no socket: notifications to nodes go through Peers, those to agents through
// Member.Send. The firewall, the state of the proxy and the clock belong to its parent.
package informer
