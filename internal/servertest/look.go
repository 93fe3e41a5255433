package servertest

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
)

// look returns the path of a program on PATH or in one of the other places, which can be patterns.
func look(program string, places ...string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return filepath.Abs(path)
	}
	for _, place := range append(places, "/usr/local/bin", "/usr/sbin", "/usr/bin") {
		found, _ := filepath.Glob(filepath.Join(place, program))
		slices.Reverse(found)
		for _, path := range found {
			if path, err := exec.LookPath(path); err == nil {
				return path, nil
			}
		}
	}
	return "", err
}

// version runs bin with one argument and returns title with the version, the first group of pattern in what
// it prints: proof that the program runs at all.
func version(bin, arg, title, pattern string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, bin, arg).CombinedOutput()
	m := regexp.MustCompile(pattern).FindSubmatch(out)
	if err != nil || m == nil {
		return "", fmt.Errorf("%w: %s %s does not tell its version: %v: %.200q", errMissing, bin, arg, err, out)
	}
	return title + " " + string(m[1]), nil
}
