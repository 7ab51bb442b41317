package demo

import (
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
)

// sessionFigures are what the ssh session and the download felt, and that every line and byte of them arrived.
func (r *run) sessionFigures() (fs []figures.Figure) {
	l := r.lasting
	if l == nil {
		l = &sessions{}
	}
	var reads, keys *app.Trace
	if l.reader != nil {
		reads = &l.reader.Trace
	}
	if l.typist != nil {
		keys = &l.typist.Trace
	}
	fs = append(felt("ssh", keys, typing, r.marks, l.noSSH), felt("download", reads, fleet.StreamEvery, r.marks, "")...)
	if l.noSSH == "" {
		fs = append(fs, l.sshFigure())
	}
	return append(fs, l.downloadFigures()...)
}

// sshFigure counts lines that were typed and not echoed in their turn; a session that did not end by itself counts too.
func (s *sessions) sshFigure() figures.Figure {
	missing, typed := 1, 0
	if s.typist != nil && s.finished {
		seen, wrong := 0, ""
		typed, seen, wrong = s.typist.Counts()
		missing = typed - seen
		if wrong != "" || s.sshErr != nil {
			missing++
		}
	}
	return figures.Count("lines.lost", "ms", "", missing, typed).Label("app", "ssh").AtMost(0)
}

func (s *sessions) downloadFigures() []figures.Figure {
	wrong := 1
	if s.finished && s.downloadErr == nil && s.got == s.served && s.gotN > 0 {
		wrong = 0
	}
	return []figures.Figure{
		figures.Count("digest.mismatch", "ms", "", wrong, 1).Label("app", "download").AtMost(0),
		figures.Count("bytes.lost", "ms", "", int(s.servedN-s.gotN), int(s.servedN)).Label("app", "download").AtMost(0),
	}
}
