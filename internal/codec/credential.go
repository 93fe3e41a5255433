package codec

import "encoding/binary"

// A Credential says which cookies a session's record accepts. It is readable without a key, so that whoever ends a
// session can tell whose it is.
type Credential struct {
	Key    KeyHash // of the key that its cookies have
	Before KeyHash // of the one that they had before; zero if there was none
	Count  uint32  // of the cookie that was issued last
	Floor  uint32  // the counts from here on are accepted,
	Until  int64   // those below Count until then; zero: for as long as nobody has shown Count
	Keyed  int64   // when the key was issued
	Issued int64   // when Count was
	Login  Login
	Device Device // that the session is bound to for this login; zero for none
	Bound  int64  // since when; zero without one
}

// A KeyHash is a hash of the secret part of a cookie.
type KeyHash [16]byte

// A Login names the time for which one user is logged in with one session. It is random, and zero for nobody.
type Login [16]byte

// A Device is the thumbprint of a key in a device of the client's.
type Device [16]byte

const credentialSize = len(KeyHash{})*2 + len(Login{}) + len(Device{}) + 1 + 2*binary.MaxVarintLen32 + 4*binary.MaxVarintLen64

const hasBefore, hasLogin, hasDevice = 1, 2, 4

func (c *Credential) append(b []byte) []byte {
	flags := byte(0)
	if c.Before != (KeyHash{}) {
		flags |= hasBefore
	}
	if c.Login != (Login{}) {
		flags |= hasLogin
	}
	if c.Device != (Device{}) {
		flags |= hasDevice
	}
	b = append(append(b, flags), c.Key[:]...)
	if flags&hasBefore != 0 {
		b = append(b, c.Before[:]...)
	}
	if flags&hasLogin != 0 {
		b = append(b, c.Login[:]...)
	}
	b = binary.AppendUvarint(b, uint64(c.Count))
	b = binary.AppendUvarint(b, uint64(c.Count-c.Floor))
	b = appendTimes(b, c.Until, c.Keyed, c.Issued)
	if flags&hasDevice != 0 {
		b = appendTimes(append(b, c.Device[:]...), c.Bound)
	}
	return b
}

func (c *Credential) read(r *Reader) {
	flags := r.Take(1)[0]
	copy(c.Key[:], r.Take(len(c.Key)))
	if flags&hasBefore != 0 {
		copy(c.Before[:], r.Take(len(c.Before)))
	}
	if flags&hasLogin != 0 {
		copy(c.Login[:], r.Take(len(c.Login)))
	}
	c.Count = r.uint32()
	below := r.uint32()
	c.Floor = c.Count - below
	c.Until, c.Keyed, c.Issued = r.Time(), r.Time(), r.Time()
	if flags&hasDevice != 0 {
		copy(c.Device[:], r.Take(len(c.Device)))
		c.Bound = r.Time()
		r.bad = r.bad || c.Device == (Device{})
	}
	r.bad = r.bad || flags > hasBefore|hasLogin|hasDevice || below > c.Count
}
