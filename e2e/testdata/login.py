"""Goes through a login at examples/login with http.cookiejar: login.py URL CERTIFICATE PASSWORD TOKEN_FIELD."""

import http.cookiejar
import re
import ssl
import sys
import time
import urllib.parse
import urllib.request

base, certificate, password, token_field = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
jar = http.cookiejar.CookieJar()
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=context),
    urllib.request.HTTPCookieProcessor(jar),
)
page = ""


def visit(path, **form):
    """Gets the page, or sends the form with the token of the page before, if it has one, and returns where it leads to."""
    global page
    data = None
    if form:
        if token := re.search(f'name="{token_field}" value="([^"]+)"', page):
            form[token_field] = token.group(1)
        data = urllib.parse.urlencode(form).encode()
    with opener.open(base + path, data, timeout=60) as response:
        page = response.read().decode()
        return urllib.parse.urlsplit(response.url).path


def cookie():
    (only,) = jar
    return only


def check(condition, what):
    if not condition:
        sys.exit(f"{what}\n{list(jar)}\n{page}")


check(visit("/") == "/login", "the start leads to the login")
check(not list(jar), "before the login there is no cookie")
check(visit("/login", user="ann", password=password, remember="yes") == "/", "the login leads to the start")
check("Welcome, ann." in page, "the login is greeted")
after = cookie()
check(after.name == "__Host-session" and after.secure and after.path == "/", "name, Secure and Path are right")
check(not after.domain_specified, "the cookie is the host's alone")
check(after.has_nonstandard_attr("HttpOnly"), "the cookie is HttpOnly")
check(after.get_nonstandard_attr("SameSite") == "Lax", "the cookie is SameSite=Lax")
check(after.expires > time.time() + 29 * 24 * 3600, "the cookie is remembered")
check(visit("/devices") == "/devices" and "this device only" in page, "the devices are shown")
check(visit("/logout", really="yes") == "/login", "the logout leads to the login")
check("You are logged out." in page, "the logout is confirmed")
check(visit("/devices") == "/login", "the session is over")
print("done")
