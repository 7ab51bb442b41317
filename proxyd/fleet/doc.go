// Package fleet is what makes several proxies one system: identity, enrolment, the signed documents,
// and the peer links on which the paper's notifications between proxies travel (the paper, sections
// 4.2 and 4.3, takes all of these for given).
//
// The signing node (Init) holds the fleet's CA and the fleet key. From its declared services and nodes
// it makes two documents, signed with its certificate: CATALOGUE for agents and FLEET for nodes.
// Everybody else comes in with a token (CreateToken): nodes by Join, agents through an entry, which
// passes their request on (Peers.Enrol). The Signer answers both.
//
// A node's state directory, 0700, each file 0600 and written whole or not at all:
//
//	node.json       name, node id, kind, fleet
//	node.key        Ed25519 key, made here, never leaves
//	node.crt        certificate chain, leaf first, CA last
//	secrets.json    generations of this node's proxy secret
//	fleet.doc       FLEET, signed
//	catalogue.doc   CATALOGUE, signed
//
// and on the signing node besides:
//
//	ca.key          the fleet's CA
//	fleet.key       the secret from which every proxy secret comes
//	ledger.json     node ids by name, certificates given to nodes, revoked ones
//	tokens/ID.json  a token's uses, expiry, role; its secret as a hash
//	agents/ID.json  an agent's groups, for its next certificate
//
// What it does not do: it opens no public port (package link does, for enrol links too), and decides
// nothing about attacks; notifications go to a Handler.
package fleet
