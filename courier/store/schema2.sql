-- When a hub throws away what is in a mailbox there; 0: it is in none, or the time is not to be believed.
ALTER TABLE outbox ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
