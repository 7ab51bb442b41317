package proxyd

import "time"

// Status is what `proxyd status` shows; its JSON is read by the lab and by operators' scripts.
type Status struct {
	Version    string             `json:"version"`
	Node       string             `json:"node"` // name on the signing node
	ID         string             `json:"id"`   // node id, hex
	Kind       string             `json:"kind"` // entry, hidden, anchor, signer
	State      State              `json:"state"`
	Since      time.Time          `json:"since"`
	Why        string             `json:"why"`
	Serving    bool               `json:"serving"`              // carries clients now
	Frontends  []string           `json:"frontends"`            // nodes that serve clients, as far as this one knows
	Rates      map[string]float64 `json:"rates,omitempty"`      // packets/s by kind, in the last interval
	Thresholds map[string]float64 `json:"thresholds,omitempty"` // packets/s by kind; absent is off
	Path       string             `json:"path,omitempty"`       // by which the SYN Checker sees packets
	PathWhy    []string           `json:"path_why,omitempty"`   // for each better one, why it is not that
	Sampling   *Sampling          `json:"sampling,omitempty"`   // how the SYN Checker chooses
	Counts     map[string]uint64  `json:"counts,omitempty"`
	Agents     int                `json:"agents"`              // connected, and this proxy is their current one
	Links      int                `json:"links"`               // data links through it, wherever they end
	Relayed    int                `json:"relayed"`             // of them, those that it passes on to another anchor
	Sessions   int                `json:"sessions"`            // that end here
	Streams    int                `json:"streams"`             // of agents, to origins
	Via        map[string]int     `json:"via,omitempty"`       // edge → data links that it passes on to this node
	Plain      int                `json:"plain"`               // connections of clients without an agent
	Admitted   int                `json:"admitted"`            // addresses whose door is open
	Disclosed  map[string]int     `json:"disclosed,omitempty"` // node → agents that were told its address
	Peers      []PeerStatus       `json:"peers,omitempty"`
	Strangers  []StrangerStatus   `json:"strangers,omitempty"` // who completed handshakes and proved nothing, the most frequent prefixes first
	Leaving    *Leaving           `json:"leaving,omitempty"`   // while it defends or drains
}

// Sampling is how the SYN Checker chooses the ordinary SYNs that it answers. The shares are those of the last tenth of a
// second in which there was something to answer.
type Sampling struct {
	Mode    string  `json:"mode"`    // probability or budget
	Fresh   float64 `json:"fresh"`   // share of SYNs seen for the first time that is answered
	Again   float64 `json:"again"`   // of retransmitted ones
	Intake  float64 `json:"intake"`  // share of plain SYNs that is looked at
	Answers float64 `json:"answers"` // most SYN-ACKs a second
}

// Leaving is what is left on a proxy that sends its clients on.
type Leaving struct {
	Agents  int `json:"agents"`  // connected
	Waiting int `json:"waiting"` // of them, those that have not acknowledged where to go
	Links   int `json:"links"`   // data links through it
	Plain   int `json:"plain"`   // connections of clients without an agent, which cannot move, to services with plain = "drop"
}

// PeerStatus is a node on the backplane as this one sees it.
type PeerStatus struct {
	Name        string `json:"name"`
	Up          bool   `json:"up"`
	State       string `json:"state,omitempty"`
	UnderAttack bool   `json:"under_attack,omitempty"`
}
