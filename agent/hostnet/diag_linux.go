package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Sizes of <linux/inet_diag.h>. A socket's identity is ports, addresses, interface and cookie; it is passed on
// as it came, so IPv4 and IPv6 are the same (the netlink library aborts IPv4 sockets only).
const (
	sockIDLen     = 48
	sockIDInMsg   = 4 // after family, state, timer, retransmissions
	sockReqLen    = 8 + sockIDLen
	sockDiagMsg   = sockIDInMsg + sockIDLen
	allTCPStates  = 0xfff
	sourceInID    = 4 // after the two ports
	sockIDInReq   = 8
	statesInReq   = 4
	protocolInReq = 1
)

// diag is a sock_diag socket.
type diag struct{ s *nl.NetlinkSocket }

func openDiag() (*diag, error) {
	s, err := nl.Subscribe(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	return &diag{s: s}, nil
}

func (d *diag) close() {
	if d != nil {
		d.s.Close()
	}
}

// sockRequest is an inet_diag_req_v2.
type sockRequest [sockReqLen]byte

func (r *sockRequest) Len() int          { return len(r) }
func (r *sockRequest) Serialize() []byte { return r[:] }

func (d *diag) request(typ, flags int, r *sockRequest) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(typ, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Socket: d.s}}
	req.AddData(r)
	return req
}

// abortFrom aborts every TCP socket whose source is one of these. Their applications see ECONNABORTED at
// once, where they would wait for minutes. A kernel that cannot do this leaves them to wait.
func (d *diag) abortFrom(log *slog.Logger, sources ...netip.Addr) {
	n := 0
	for _, fam := range []byte{unix.AF_INET, unix.AF_INET6} {
		found, err := d.find(fam, sources)
		if err != nil {
			log.Debug("connections through the TUN are left to time out", "err", err)
		}
		for i := range found {
			_, err := d.request(nl.SOCK_DESTROY, unix.NLM_F_ACK, &found[i]).Execute(unix.NETLINK_INET_DIAG, 0)
			switch {
			case err == nil:
				n++
			case !errors.Is(err, unix.ENOENT):
				log.Debug("connection through the TUN is left to time out", "err", err)
			}
		}
	}
	if n > 0 {
		log.Info("aborted connections that went through the TUN", "count", n)
	}
}

// find returns a request for each socket with one of the sources. An IPv6 socket may hold a mapped IPv4 one.
func (d *diag) find(fam byte, sources []netip.Addr) (found []sockRequest, err error) {
	var all sockRequest
	all[0], all[protocolInReq] = fam, unix.IPPROTO_TCP
	nl.NativeEndian().PutUint32(all[statesInReq:], allTCPStates)
	err = d.request(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, &all).ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		if len(msg) < sockDiagMsg {
			return false
		}
		id := msg[sockIDInMsg:sockDiagMsg]
		src := netip.AddrFrom16([16]byte(id[sourceInID:]))
		if fam == unix.AF_INET {
			src = netip.AddrFrom4([4]byte(id[sourceInID:]))
		}
		for _, want := range sources {
			if want.IsValid() && src.Unmap() == want {
				r := sockRequest{0: fam, protocolInReq: unix.IPPROTO_TCP}
				copy(r[sockIDInReq:], id)
				found = append(found, r)
			}
		}
		return true
	})
	if err != nil {
		return found, fmt.Errorf("list TCP sockets: %w", err)
	}
	return found, nil
}
