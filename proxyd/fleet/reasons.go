package fleet

import (
	"fmt"
	"time"

	"migrationsensor/proto"
)

// Why the signing node refuses, in whole sentences: they are shown to whoever runs ms-agent up or
// proxyd join.
const (
	// A wrong secret has the same answer: nobody learns which token ids exist.
	reasonUnknown = "the signing node does not know this token: it was made for another fleet, or deleted; ask for a new one (proxyd token create)"
	reasonKey     = "the certificate request is not signed by an Ed25519 key of its own; upgrade the program that joins"
	reasonInside  = "the signing node could not write its state; its log says more"
	reasonBusy    = "the signing node has too many requests; try again in a minute"
	reasonAway    = "the signing node cannot be reached from this entry now; try again in a minute"
	reasonAgent   = "this token is for an agent: use it with ms-agent up --token FILE, not with proxyd join"
	reasonNode    = "this token is for a node: use it with proxyd join --as NODE FILE, not with ms-agent"
	reasonRenew   = "the signing node does not know this agent; enrol it again with a new token (ms-agent up --token FILE)"
	reasonMessage = "the entry passed on something that is no request for a certificate; upgrade it"
)

func reasonExpired(at time.Time) string {
	return fmt.Sprintf("this token expired on %s; ask for a new one (proxyd token create)", at.UTC().Format("2006-01-02 at 15:04 MST"))
}

func reasonUsedUp(uses int) string {
	if uses == 1 {
		return "this token was for one use and has been used; ask for a new one (proxyd token create)"
	}
	return fmt.Sprintf("this token was for %d uses and all are used; ask for a new one (proxyd token create)", uses)
}

func reasonUndeclared(name string) string {
	return fmt.Sprintf("there is no node %q in the fleet; declare it as [[node]] on the signing node and restart proxyd there", name)
}

func reasonOther(token, as string) string {
	return fmt.Sprintf("this token is for node %q, not for %q; use proxyd join --as %s, or ask for another token", token, as, token)
}

func reasonRole(as, kind string, role proto.Role) string {
	return fmt.Sprintf("node %q is of kind %q, this token is for role %q; ask for a token with --role %s", as, kind, role, roleOf(kind))
}
