package sessiontest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"example.com/session"
	"example.com/session/sessiontest"
)

const cart session.Key[[]string] = "cart"

func addToCart(w http.ResponseWriter, r *http.Request) {
	s := session.FromContext(r.Context())
	if !s.Has("user") {
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	items := cart.Update(s, func(items []string) []string { return append(items, r.FormValue("item")) })
	fmt.Fprintf(w, "%d items", len(items))
}

// A test of a handler that lets only those who are logged in put something into their carts.
func ExampleClient() {
	var t testing.TB = standIn{} // the parameter of a test function

	m := sessiontest.NewManager(t, nil) // or the application's own
	client := sessiontest.NewClient(t, m, m.Handler(http.HandlerFunc(addToCart)))

	res := client.Do(httptest.NewRequest("POST", "/cart?item=bread", nil))
	fmt.Println(res.Status)

	client.Set(map[string]any{"user": "alice", "cart": []string{"milk"}})
	res = client.Do(httptest.NewRequest("POST", "/cart?item=bread", nil))
	fmt.Println(res.Status)
	fmt.Println(client.Values())

	client.Session(func(s *session.Session) {
		items, _ := cart.Get(s)
		fmt.Println(len(items), s.IsNew())
	})
	// Output:
	// 401 Unauthorized
	// 200 OK
	// map[cart:[milk bread] user:alice]
	// 2 false
}

// A standIn is what an example has for a test.
type standIn struct{ testing.TB }

func (standIn) Helper()                   {}
func (standIn) Cleanup(func())            {}
func (standIn) Output() io.Writer         { return os.Stderr }
func (standIn) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
