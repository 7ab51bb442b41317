package migrate

import "migrationsensor/examples/lab/figures/page"

// facts are what one must know to read the figures.
var facts = []page.Fact{
	{Name: "Stall", Text: "the longest wait between two echoes of a connection that sends 32 bytes each 10 ms, less those 10 ms; all agents move at once, in one process, no TUN between; the connections of those that are not watched write each 100 ms"},
	{Name: "None", Text: "the same time without an event: what this machine's scheduling does by itself"},
	{Name: "Reset", Text: "the kernel of the agents' proxy resets all their links, control and data, at once"},
	{Name: "Silent", Text: "the router loses everything to and from the agents' proxy; data is outstanding"},
	{Name: "Dwell", Text: "0, and no limit of moves: by default an agent stays 3 s at a proxy and moves 16 times in ten minutes"},
	{Name: "Transfer", Text: "one connection of an unmodified program through the TUN, both directions at once, SHA-256 of both; the base is the mean of the same before and after"},
	{Name: "Machine", Text: "clients, proxies, anchor, origin and links share its processors"},
}

const notes = `a stall is the longest wait between two echoes, less the rhythm of 10 ms; kind none is the machine's own.
In this bench agents move as often as they are told: dwell 0, no limit of moves.`
