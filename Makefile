# make test        all tests, as CI does it (installs what is missing on Debian as root)
# make fips        what FIPS 140-3 concerns, under GODEBUG=fips140=only
# make faults      only those with servers that are slow, cut off, paused, killed
# make copy        only the move of 100,000 sessions from server to server
# make quickstart  the first example, on http://127.0.0.1:8080
# make check       gofmt, go vet, staticcheck, and figures
# make figures     what can be counted of the source, and whether it keeps the limits
# make cover       the share of statements that tests reach
# make fuzz        ten minutes for each fuzz test
# make soak        hundreds of browsers for 12 minutes, with failovers in the middle; SOAK=1h for longer
# make bench       other libraries and bare clients beside this one, about 30 minutes; draws the charts
# make bench-quick in less than two minutes: what needs no server, and Redis

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
MODULES     = $(dir $(wildcard go.mod */go.mod */*/go.mod))
TESTS       = $(MODULES:%=test@%)
CHECKS      = $(MODULES:%=check@%)
FUZZTIME    = 10m
ROUNDS      = 60
FEW         = 10
SOAK        = 12m

.PHONY: test $(TESTS) $(CHECKS) encrypted fips faults copy install check figures cover fuzz quickstart soak bench bench-quick

# Much of the time tests wait, so two modules are tested at a time. What one prints comes when it has ended. SQLite plays few
# histories.
test: install check
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(TESTS) encrypted fips copy

# Tests have been vetted by check, and nobody looks at them with a debugger. The detector does not watch C, and so need not watch
# what was C before: SQLite and its library, which with it take four times as long.
FLAGS = -vet=off -ldflags=-w
RACE  = -race $(FLAGS) $(WAS_C:%=-gcflags=%=-race=false)
WAS_C = modernc.org/sqlite/lib modernc.org/libc/... github.com/ncruces/go-sqlite3-wasm/...

$(TESTS): test@%:
	@echo "== go test -race ./... in $*"
	@cd $* && SESSION_TEST_REQUIRE=1 SESSION_TEST_ROUNDS=$(if $(findstring sqlite,$*),$(FEW),$(ROUNDS)) go test $(RACE) -timeout 60m ./...

encrypted: install
	@echo "== the core once more, with EncryptAtRest"
	@go test $(RACE) -tags encrypted .

# Tests in a bubble of testing/synctest cannot run in that mode: its random numbers come from the jitter of the clock, which
# stands still there. So these are the tests of what is encrypted, hashed or signed that need no bubble, and of whole sessions.
# They run with -race elsewhere.
FIPS = ^Test(Tokens|CookieAttributes|EncryptAtRest|Device|FormToken|Bind|Fixation|Foreign|Stale|OldSecret|EventsHold|ChangeIsMerged|Do$$|Parallel|FileStore|DirStore|MemoryStore(URL|Zero)|Cipher|Proofs|Refused|Accounts)
fips: install
	@echo "== what FIPS 140-3 concerns, under GODEBUG=fips140=only"
	@SESSION_TEST_REQUIRE=1 go test $(FLAGS) -exec 'env GODEBUG=fips140=only' -run '$(FIPS)' . ./internal/codec ./internal/dbsc
	@go test $(FLAGS) -short -exec 'env GODEBUG=fips140=only' -run '^Test(Stores|Sessions)$$/^(memory|file|dir)$$' ./internal/integration

faults: install
	cd faults && SESSION_TEST_REQUIRE=1 go test $(RACE) -timeout 20m ./...

copy: install
	@echo "== 100,000 sessions move from server to server, without -race"
	@cd cmd/session && SESSION_TEST_REQUIRE=1 go test $(FLAGS) -run TestCopyLarge -timeout 20m ./console

install:
	@sh internal/servertest/install.sh

check: figures
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(CHECKS)

$(CHECKS): check@%:
	@echo "== gofmt, go vet, staticcheck in $*"
	@cd $* && unformatted=$$(gofmt -l .) && if [ -n "$$unformatted" ]; then echo "gofmt: $$unformatted"; false; fi && go vet ./... && go run $(STATICCHECK) ./...

figures:
	@go test -count=1 -v -run TestHouse ./internal/figures

cover:
	SESSION_TEST_REQUIRE=1 go test -coverpkg=./... -coverprofile=coverage.out ./... && go tool cover -func=coverage.out | tail -1

fuzz:
	@for dir in . internal/codec internal/dbsc; do \
		for f in $$(cat $$dir/*_test.go 2>/dev/null | grep -o '^func Fuzz[A-Za-z]*' | sed 's/func //'); do \
			go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) ./$$dir || exit 1; \
		done; \
	done

quickstart:
	go run ./examples/quickstart

# Without -race: what it watches is memory and time. go test -v prints at once. SOAK="12m -seed 7" has other flags as well.
soak: install
	cd faults && SESSION_TEST_REQUIRE=1 go test -count=1 -timeout 0 -v -run TestSoak ./soak -args -for $(SOAK)

bench: install
	mkdir -p bench/results
	cd bench && go test -count=1 -timeout 90m -run 'TestCompare|TestSizes' -args -scale full -report results

bench-quick:
	cd bench && go test -count=1 -run TestCompare -args -scale quick
