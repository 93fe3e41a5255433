// Package e2e has no code, only tests: of examples/login, examples/stream and examples/oidc, and of what the library relies on
// browsers for, in a real browser. It is a module of its own, so that nobody who uses the library downloads what
// drives a browser.
//
// The browser is Chromium, as Debian packages it, without a window. curl and Python's http.cookiejar, which have
// ideas of their own of how cookies work, go through a login too. Everything stays on the loopback interface: the
// browser resolves *.example.test to it, and no other name.
//
//	go test ./...                                              # skips what is not installed
//	go test -run Screenshots -artifacts -outputdir /tmp ./...  # keeps pictures of all pages
//
// SESSION_TEST_REQUIRE=1 makes a test fail, not skip, when the program that it needs is not installed.
package e2e
