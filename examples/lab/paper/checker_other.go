//go:build !linux

package paper

import (
	"context"
	"io"
)

func runChecker(context.Context, Config, io.Writer) (CheckerCounts, error) {
	return CheckerCounts{}, errLinux
}
