// Package detect is the DDoS Detector of the paper (section 6.2): "the number of packets" of each
// kind is counted for a second and compared with a threshold set by hand.
//
// The paper counts one second after the other, so a flood that begins in the middle of one may fall
// below the threshold in it and be found at the end of the next. Here the second slides: ten times
// in each the packets of the last whole one are compared.
//
//	packets   ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇
//	fixed     |         |         |         |    threshold at 0.6 of the flood's rate: found in the third
//	sliding              |────────▲              found 0.6 of a second after its start, and a step at most
//
// So a flood is found within the paper's second if the threshold is at most nine tenths of its rate.
// Nothing is found that no second, begun at some step, would have shown; and what seconds show is found
// no later, but for where they are cut.
//
// It has two halves that meet only in [Counts]:
//
//   - A [Counter] counts packets that arrive at an interface. On Linux the kernel counts
//     ([OpenCounter]): no packet is copied or read, so the count is exact however large the flood,
//     and it needs neither eBPF nor the host's root, only CAP_NET_RAW in the network's own user
//     namespace. What a firewall drops at ingress is counted too; what an XDP program drops is
//     not, for it never becomes a packet of the kernel.
//   - A [Detector] is pure: time and counts go in, a [Verdict] comes out.
//
// A packet is what the kernel hands on: segments that the interface or GRO merged count once, so
// a fast download does not look like a flood of packets.
//
// It does not see slow attacks (the paper leaves them out too) and it does not learn thresholds.
package detect
