package fleet

import "golang.org/x/time/rate"

// limits is how much one peer may ask in a second: a captured neighbour must not fill this node's
// door, nor an entry the signing node's disk.
type limits struct{ ratify, userInfo, sign, docs *rate.Limiter }

func newLimits() *limits {
	return &limits{
		ratify:   rate.NewLimiter(2000, 4000),
		userInfo: rate.NewLimiter(100, 400), // messages; each has many clients
		sign:     rate.NewLimiter(100, 200),
		docs:     rate.NewLimiter(2, 20),
	}
}
