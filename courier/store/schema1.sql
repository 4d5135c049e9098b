-- Keys and hashes are BLOBs, times are milliseconds since 1970.

CREATE TABLE settings (
	key   TEXT PRIMARY KEY,
	value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE contacts (
	id        INTEGER PRIMARY KEY,
	key       BLOB NOT NULL UNIQUE CHECK (length(key) = 32),
	name      TEXT UNIQUE COLLATE NOCASE, -- NULL: removed, kept for its messages
	box       BLOB CHECK (length(box) = 32), -- NULL: the X25519 form of the key
	courier   TEXT NOT NULL DEFAULT '', -- the id at the hubs
	places    TEXT NOT NULL DEFAULT '[]', -- JSON
	card      BLOB, -- NULL: added without one
	cardtime  INTEGER NOT NULL DEFAULT 0,
	blocked   INTEGER NOT NULL DEFAULT 0,
	alert     TEXT NOT NULL DEFAULT '', -- what the owner must look at
	added     INTEGER NOT NULL,
	sent      INTEGER NOT NULL DEFAULT 0, -- the last number used
	attempts  INTEGER NOT NULL DEFAULT 0, -- of delivery, in vain, in a row
	next      INTEGER NOT NULL DEFAULT 0, -- when delivery is tried again
	trouble   TEXT NOT NULL DEFAULT '' -- why the last attempt was in vain
);

-- Keys that contacts have had before.
CREATE TABLE formerkeys (
	key       BLOB PRIMARY KEY,
	contact   INTEGER NOT NULL REFERENCES contacts(id),
	statement BLOB NOT NULL
) WITHOUT ROWID;

-- Strangers whose messages are thrown away.
CREATE TABLE blockedkeys (
	key   BLOB PRIMARY KEY,
	added INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE messages (
	id        INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order in which they are shown
	change    INTEGER NOT NULL, -- grows with each change of any message
	contact   INTEGER NOT NULL REFERENCES contacts(id),
	direction INTEGER NOT NULL, -- 1 received, 2 sent
	hash      BLOB NOT NULL UNIQUE,
	number    INTEGER NOT NULL,
	kind      INTEGER NOT NULL,
	text      TEXT NOT NULL DEFAULT '',
	time      INTEGER NOT NULL, -- the sender's
	stored    INTEGER NOT NULL, -- ours
	state     INTEGER NOT NULL,
	note      TEXT NOT NULL DEFAULT '' -- why it failed
);
CREATE INDEX messages_change ON messages(change);
CREATE INDEX messages_contact ON messages(contact, id);
CREATE INDEX messages_stored ON messages(stored);

-- What came, shown or not, so that nothing is taken twice.
CREATE TABLE seen (
	hash BLOB PRIMARY KEY
) WITHOUT ROWID;

-- Signed messages whose arrival is not known yet.
CREATE TABLE outbox (
	id      INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order in which they are sent
	contact INTEGER NOT NULL REFERENCES contacts(id),
	message INTEGER REFERENCES messages(id), -- what shows how far it has come; NULL: nothing
	hash    BLOB NOT NULL UNIQUE,
	kind    INTEGER NOT NULL,
	signed  BLOB NOT NULL,
	state   INTEGER NOT NULL,
	wire    BLOB -- the form for Secrez's programs; NULL: not made
);
CREATE INDEX outbox_contact ON outbox(contact, id);

-- Messages that came by way of a mailbox, whose senders do not know yet.
CREATE TABLE owed (
	contact INTEGER NOT NULL REFERENCES contacts(id),
	hash    BLOB NOT NULL,
	PRIMARY KEY (contact, hash)
) WITHOUT ROWID;

-- What strangers have sent.
CREATE TABLE requests (
	id     INTEGER PRIMARY KEY AUTOINCREMENT,
	key    BLOB NOT NULL,
	hash   BLOB NOT NULL UNIQUE,
	signed BLOB NOT NULL,
	stored INTEGER NOT NULL
);
CREATE INDEX requests_key ON requests(key);

CREATE TABLE files (
	message INTEGER PRIMARY KEY REFERENCES messages(id),
	contact INTEGER NOT NULL REFERENCES contacts(id),
	direction INTEGER NOT NULL,
	file    BLOB NOT NULL,
	name    TEXT NOT NULL,
	size    INTEGER NOT NULL,
	hash    BLOB NOT NULL,
	chunks  INTEGER NOT NULL,
	done    INTEGER NOT NULL DEFAULT 0, -- chunks that have arrived, here or there
	UNIQUE (contact, direction, file)
);

CREATE TABLE chunks (
	message INTEGER NOT NULL REFERENCES files(message),
	number  INTEGER NOT NULL,
	data    BLOB NOT NULL,
	PRIMARY KEY (message, number)
);

-- What Secrez's command line gets to see.
CREATE TABLE secrez (
	id        INTEGER PRIMARY KEY AUTOINCREMENT,
	stored    INTEGER NOT NULL,
	direction INTEGER NOT NULL,
	payload   TEXT NOT NULL,
	signature TEXT NOT NULL,
	publickey TEXT NOT NULL, -- the other side's
	digest    BLOB NOT NULL,
	UNIQUE (direction, digest, publickey)
);
CREATE INDEX secrez_stored ON secrez(stored);

-- Whom Secrez's command line trusts, by the sign half of the key.
CREATE TABLE secrezcontacts (
	key       BLOB PRIMARY KEY,
	publickey TEXT NOT NULL,
	url       TEXT, -- NULL: not known
	added     INTEGER NOT NULL,
	updated   INTEGER NOT NULL
) WITHOUT ROWID;
