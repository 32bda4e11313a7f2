-- Names that are unique over all pods. A claim that is confirmed has no end, and
-- one that is not can be taken by another after expires_at, by the primary's
-- clock in UTC. Names are bytes: no collation finds two of them equal that
-- differ. Rows that lapsed long ago can be deleted at any time.
CREATE TABLE IF NOT EXISTS podworks_claims (
	kind VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	name VARBINARY(255) NOT NULL,
	owner BIGINT NOT NULL,
	token BIGINT UNSIGNED NOT NULL,
	expires_at DATETIME(6) NULL,
	PRIMARY KEY (kind, name),
	KEY (owner),
	KEY (expires_at)
) ENGINE=InnoDB;

-- The first id of each sequence that no process has been given.
CREATE TABLE IF NOT EXISTS podworks_sequences (
	name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
	next BIGINT NOT NULL
) ENGINE=InnoDB;
