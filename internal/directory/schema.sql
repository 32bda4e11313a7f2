-- The directory of shops and pods, and the journal of moves. It lives in the
-- master database, is written rarely and read often.
CREATE TABLE IF NOT EXISTS podworks_version (
	id TINYINT NOT NULL PRIMARY KEY,
	version BIGINT UNSIGNED NOT NULL
) ENGINE=InnoDB;

INSERT IGNORE INTO podworks_version (id, version) VALUES (1, 0);

CREATE TABLE IF NOT EXISTS podworks_pods (
	pod_id INT NOT NULL PRIMARY KEY,
	region VARCHAR(64) CHARACTER SET ascii NOT NULL,
	epoch BIGINT UNSIGNED NOT NULL,
	serving TINYINT NOT NULL,
	version BIGINT UNSIGNED NOT NULL,
	KEY (version)
) ENGINE=InnoDB;

-- Rows are never deleted: a shop's number comes back neither at a lower epoch nor
-- unheard of by those who ask what changed.
CREATE TABLE IF NOT EXISTS podworks_shops (
	shop_id BIGINT NOT NULL PRIMARY KEY,
	pod_id INT NOT NULL,
	epoch BIGINT UNSIGNED NOT NULL,
	state ENUM('open', 'closed', 'deleted') NOT NULL DEFAULT 'open',
	version BIGINT UNSIGNED NOT NULL,
	KEY (pod_id),
	KEY (version)
) ENGINE=InnoDB;

-- Shop 0 is nobody: a host that was taken from its shop stays as a row, so that
-- those who ask what changed hear of it.
CREATE TABLE IF NOT EXISTS podworks_hosts (
	host VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
	shop_id BIGINT NOT NULL,
	version BIGINT UNSIGNED NOT NULL,
	KEY (shop_id),
	KEY (version)
) ENGINE=InnoDB;

-- active is the shop while the move is unfinished, else NULL: one unfinished
-- move per shop, with the finished ones kept as history. The token is the
-- counter itself, so tokens only grow. Times are in UTC, whatever the session's
-- zone: an hour that a clock skips or repeats must not make a live move look
-- dead, or a dead one alive.
--
-- verified_token is the token whose copy on the target was verified: a decided
-- move opens no other. A table from before there was that column gets it, while
-- no move is unfinished, with
--   ALTER TABLE podworks_moves ADD verified_token BIGINT UNSIGNED NOT NULL DEFAULT 0
CREATE TABLE IF NOT EXISTS podworks_moves (
	token BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
	shop_id BIGINT NOT NULL,
	active BIGINT NULL,
	state VARCHAR(16) CHARACTER SET ascii NOT NULL,
	step VARCHAR(32) CHARACTER SET ascii NOT NULL,
	from_pod INT NOT NULL,
	from_epoch BIGINT UNSIGNED NOT NULL,
	to_pod INT NOT NULL,
	from_pod_epoch BIGINT UNSIGNED NULL,
	to_pod_epoch BIGINT UNSIGNED NULL,
	verified_token BIGINT UNSIGNED NOT NULL DEFAULT 0,
	started_at DATETIME(6) NOT NULL,
	noted_at DATETIME(6) NOT NULL,
	UNIQUE KEY (active),
	KEY (shop_id)
) ENGINE=InnoDB;
