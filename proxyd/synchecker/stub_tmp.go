package synchecker

func OpenPath(ifname string, f Filter, want Path) (Port, Taken, error) {
	p, err := OpenPort(ifname, f)
	return p, Taken{Path: PathPacket}, err
}
func (p Packets) Add(o Packets) Packets { return Packets{p.All + o.All, p.SYN + o.SYN, p.ICMP + o.ICMP, p.UDP + o.UDP} }
func (s Stats) Add(o Stats) Stats       { return s }

func CanOffload() error { return nil }
