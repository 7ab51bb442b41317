// Package app has the applications whose connections are moved in the lab's benches, and what they felt of it:
//
//   - Paced writes a few bytes every 10 ms through one connection to an echo and notes when each came back. Its stall
//     around an event is the longest wait between two of them, less the usual one;
//   - Transfer sends and receives at once and compares the digests of both ways, byte for byte;
//   - Typist types lines at a terminal, where an ssh runs, and waits for each to be echoed;
//   - Reader takes in a download as it comes and notes the longest wait.
//
// None of them knows of Migration Sensor: they use sockets and pipes as every application does. Only Crowd does, which is many agents
// in one process (package agent, without a TUN), each with a Paced of its own.
package app
