package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/session"
)

// A natsStore keeps sessions in NATS JetStream (2.11 or later), in a stream that has the last message of each subject: what
// a JetStream key-value bucket is, too. A record is the message on the subject of its ID, and the message's sequence number is what
// the server compares and swaps by. It counts the messages of the whole stream, so that a record's version is in the message.
type natsStore struct {
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	prefix string // of subjects
}

// openNATS is the session.OpenFunc of URLs such as nats://127.0.0.1:4222?stream=sessions.
func openNATS(ctx context.Context, rawURL string) (session.StoreCloser, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("the nats: URL is malformed") // and may have a password
	}
	name := u.Query().Get("stream")
	if name == "" {
		name = "sessions"
	}
	u.RawQuery = ""
	conn, err := nats.Connect(u.String())
	if err != nil {
		return nil, err
	}
	s := &natsStore{conn: conn, prefix: name + "."}
	if s.js, err = jetstream.New(conn); err == nil {
		s.stream, err = s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name:              name,
			Subjects:          []string{s.prefix + "*"},
			MaxMsgsPerSubject: 1,
			AllowMsgTTL:       true,
			AllowDirect:       false, // a replica may lag behind: only the leader knows the present version
		})
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *natsStore) subject(id session.ID) string { return s.prefix + id.String() }

func (s *natsStore) Load(ctx context.Context, id session.ID) (session.Record, error) {
	_, rec, err := s.look(ctx, id)
	if err == nil && rec.Version == 0 {
		err = session.ErrNotFound
	}
	return rec, err
}

// look returns the live record under an ID, of version 0 if there is none, and the sequence number of the message that is there,
// expired or not, 0 if there is none.
func (s *natsStore) look(ctx context.Context, id session.ID) (sequence uint64, rec session.Record, err error) {
	msg, err := s.stream.GetLastMsgForSubject(ctx, s.subject(id))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, rec, nil
	case err != nil:
		return 0, rec, err
	}
	if rec = decode(msg.Data); !rec.Live(time.Now()) {
		rec = session.Record{}
	}
	return msg.Sequence, rec, nil
}

// Save is the rule that all else rests on: whoever saw the present version may write the next one. An expired record is replaced
// at its number and not removed first, since somebody may have been quicker.
func (s *natsStore) Save(ctx context.Context, id session.ID, rec session.Record) error {
	for {
		sequence, current, err := s.look(ctx, id)
		if err != nil {
			return err
		}
		if current.Version != rec.Version {
			return session.ErrConflict
		}
		options := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(sequence)}
		if !rec.Expires.IsZero() { // the server removes it a little later, by its own clock
			const most = 100 * 365 * 24 * time.Hour
			left := min(max(0, time.Until(rec.Expires)), most).Truncate(time.Second)
			options = append(options, jetstream.WithMsgTTL(left+2*time.Second))
		}
		_, err = s.js.Publish(ctx, s.subject(id), encode(rec), options...)
		if e := (*jetstream.APIError)(nil); errors.As(err, &e) && e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			continue // another writer, or the server has removed what had expired: the next look tells
		}
		if errors.Is(err, nats.ErrMaxPayload) {
			err = fmt.Errorf("%w: %w", session.ErrTooLarge, err)
		}
		return err
	}
}

// Delete leaves nothing behind. A save by whoever saw the record fails all the same: no number comes twice.
func (s *natsStore) Delete(ctx context.Context, id session.ID) error {
	return s.stream.Purge(ctx, jetstream.WithPurgeSubject(s.subject(id)))
}

// Close closes the connection.
func (s *natsStore) Close() error {
	s.conn.Close()
	return nil
}

// encode returns a record as a message: its next version, its expiry in milliseconds since 1970, 0 for never, and its data.
func encode(rec session.Record) []byte {
	expires := int64(0)
	if !rec.Expires.IsZero() {
		expires = max(1, rec.Expires.UnixMilli())
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16+len(rec.Data)), rec.Version+1)
	b = binary.BigEndian.AppendUint64(b, uint64(expires))
	return append(b, rec.Data...)
}

// decode is the inverse of encode. Anything but a record is one of version 0, which counts as absent.
func decode(b []byte) session.Record {
	if len(b) < 16 {
		return session.Record{}
	}
	rec := session.Record{Version: binary.BigEndian.Uint64(b), Data: b[16:]}
	if expires := int64(binary.BigEndian.Uint64(b[8:])); expires != 0 {
		rec.Expires = time.UnixMilli(expires)
	}
	return rec
}
