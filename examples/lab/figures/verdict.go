package figures

import (
	"errors"
	"slices"
)

// Errors of a run that came to its end.
var (
	// ErrWrong says that something that must hold on every machine does not.
	ErrWrong = errors.New("the run found something wrong")
	// ErrSlow says that only goals that depend on this machine's clock were missed.
	ErrSlow = errors.New("the run missed a goal of time")
)

// Judge sets the verdict and says what a failed run is: wrong, or only slow here. Figures of these units depend on the machine and
// what else it does; others must not.
func Judge(file *File, complete bool, ofTime ...string) error {
	if file.Decide(complete) {
		return nil
	}
	if !complete {
		return ErrWrong
	}
	for _, f := range file.Figures {
		if f.Meets != nil && !*f.Meets && !slices.Contains(ofTime, f.Unit) {
			return ErrWrong
		}
	}
	return ErrSlow
}
