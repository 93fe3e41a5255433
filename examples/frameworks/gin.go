package main

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"example.com/session"
)

// newGin is the application with gin, whose middleware has a form of its own: m.Handler goes around the engine. For the
// same reason gin.Recovery is left out, which gin.Default has: it would hide panics from the session. The server
// recovers from them, too.
func newGin(m *session.Manager) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.GET("/", func(c *gin.Context) {
		s := session.FromContext(c.Request.Context())
		c.String(http.StatusOK, "%s", greeting(s.User(), visits.Update(s, increment)))
	})
	engine.POST("/login", func(c *gin.Context) {
		session.FromContext(c.Request.Context()).SetUser(c.PostForm("user"))
		c.Redirect(http.StatusSeeOther, "/")
	})
	engine.POST("/logout", func(c *gin.Context) {
		session.FromContext(c.Request.Context()).Destroy()
		c.Redirect(http.StatusSeeOther, "/")
	})
	return m.Handler(engine)
}
