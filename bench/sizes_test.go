package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"testing"
)

// TestSizes measures what sessions take, and what an operation costs the server: of a hundred thousand where the scale is
// full, of few as a test.
func TestSizes(t *testing.T) {
	n := 300
	if *scaleFlag == "full" {
		n = 100_000
	}
	var all []sizing
	for _, md := range media {
		if *onlyFlag != "" && *onlyFlag != md.name {
			continue
		}
		t.Run(md.name, func(t *testing.T) {
			z := md.open(t).measure(md.name, n)
			for _, kind := range []string{smallRecord, largeRecord, listRecord} {
				if least := len(records()[kind]); *scaleFlag == "full" && z.Bytes[kind] < float64(least) {
					t.Errorf("%s: %.0f bytes, with %d bytes of data", kind, z.Bytes[kind], least)
				}
			}
			if *scaleFlag != "once" {
				fmt.Printf("%s\t%s\t%v\t%v\n", z.Backend, z.Place, z.Bytes, z.Micros)
			}
			all = append(all, z)
		})
	}
	data := map[string]int{}
	for kind, record := range records() {
		data[kind] = len(record)
	}
	if *reportFlag != "" && *scaleFlag == "full" {
		writeFile(filepath.Join(*reportFlag, "sizes.json"), func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "\t")
			return e.Encode(map[string]any{"records": n, "data": data, "sizes": all})
		})
	}
	if data[smallRecord] < 100 || data[largeRecord] < 2000 || data[listRecord] < 100 || data[endedRecord] < 20 || data[longerRecord] <= data[listRecord] {
		t.Errorf("the records have %v bytes of data", data)
	}
}
