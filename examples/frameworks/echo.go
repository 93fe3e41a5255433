package main

import (
	"net/http"

	"github.com/labstack/echo/v5"

	"example.com/session"
)

// newEcho is the application with Echo. m.Handler goes around it, rather than through echo.WrapMiddleware, so that
// the answers to errors that handlers return are inside, too. middleware.Recover is left out, as in newGin.
func newEcho(m *session.Manager) http.Handler {
	e := echo.New()
	e.GET("/", func(c *echo.Context) error {
		s := session.FromContext(c.Request().Context())
		return c.String(http.StatusOK, greeting(s.User(), visits.Update(s, increment)))
	})
	e.POST("/login", func(c *echo.Context) error {
		session.FromContext(c.Request().Context()).SetUser(c.FormValue("user"))
		return c.Redirect(http.StatusSeeOther, "/")
	})
	e.POST("/logout", func(c *echo.Context) error {
		session.FromContext(c.Request().Context()).Destroy()
		return c.Redirect(http.StatusSeeOther, "/")
	})
	return m.Handler(e)
}
