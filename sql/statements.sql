-- Every statement that the daemon runs, by name: "-- name --" begins one, the comment below it says what it is for.

-- version --
-- 150000 or more, else this program refuses.
SELECT current_setting('server_version_num')::int

-- may_set_role --
-- Whether this login can take on the role (from 16 on, membership alone does not allow it); without it the daemon
-- works as the login itself.
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)
   AND pg_has_role(current_user, (SELECT oid FROM pg_roles WHERE rolname = $1),
                   CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
   -- A schema that was made without roles has no rights for them: then the login itself is the one to be.
   AND NOT EXISTS (SELECT FROM pg_namespace
                    WHERE nspname = 'ingest'
                      AND NOT has_schema_privilege((SELECT r.oid FROM pg_roles r WHERE r.rolname = $1), oid, 'USAGE'))

-- lock_offset --
-- The row of a stream, locked: whoever starts or takes over does so alone.
SELECT spool_id, epoch, frame_no, state::text AS state,
       shipped_frames, state_frames, duplicate_frames, control_frames, quarantined_frames,
       clock_timestamp() - updated_at < $2 AS recent
  FROM ingest.offsets WHERE stream = $1 FOR UPDATE

-- read_offset --
-- Where a stream stands; read again after every error.
SELECT spool_id, epoch, frame_no, state::text AS state,
       shipped_frames, state_frames, duplicate_frames, control_frames, quarantined_frames
  FROM ingest.offsets WHERE stream = $1

-- begin_stream --
-- Nobody has written to this stream yet. Two that find this at once: one inserts, the other finds the row.
INSERT INTO ingest.offsets (stream, spool_id, epoch, frame_no, state) VALUES ($1, $2, $3, $4, $5::text::jsonb)
ON CONFLICT (stream) DO NOTHING

-- raise_epoch --
-- From here on the former writer's UPDATE finds no row.
UPDATE ingest.offsets SET spool_id = $2, epoch = $3, frame_no = $4, updated_at = clock_timestamp() WHERE stream = $1

-- retire_spool --
-- Remember how far a spool got that is taken over, should it ever come back.
INSERT INTO ingest.offsets (stream, spool_id, epoch, frame_no) VALUES ('spool/' || $1, $1, $2, $3)
ON CONFLICT (stream) DO UPDATE SET epoch = excluded.epoch, frame_no = excluded.frame_no, updated_at = clock_timestamp()

-- advance --
-- The first statement of every batch: no row means that somebody else wrote since, or that this batch is in already.
UPDATE ingest.offsets
   SET frame_no = $5, state = $6::text::jsonb, updated_at = clock_timestamp(),
       received_frames = received_frames + $7 + $8 + $9 + $10 + $11,
       shipped_frames = shipped_frames + $7, state_frames = state_frames + $8,
       duplicate_frames = duplicate_frames + $9, control_frames = control_frames + $10,
       quarantined_frames = quarantined_frames + $11
 WHERE stream = $1 AND spool_id = $2 AND epoch = $3 AND frame_no = $4

-- put_gap --
-- Open, filled a little, closed: the same gap, always its newest state.
INSERT INTO ingest.gaps (stream, frame_no, gap_no, feed, channel, scope, cause, from_time, to_time, from_seq, to_seq,
                         expected, recovered, repaired_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (stream, frame_no, gap_no) DO UPDATE
   SET to_time = excluded.to_time, expected = excluded.expected, recovered = excluded.recovered,
       repaired_at = excluded.repaired_at

-- repair_gap --
-- What an answer of REST did: how many rows came, and at the end whether that was all of it. Where nobody could know
-- how many were missed, all that the venue has is what was to be expected.
--
-- Two holes in the same seconds: the question about the first brings the trades of both. What a hole has got beyond
-- its own number is not its own, and is handed on to one nearby that lacks some (10 s: twice the margin by which more
-- is asked for than the gap). Each trade counts once.
WITH now AS (
  SELECT *, recovered + $4::bigint AS came, $5::text IN ('complete', 'state') AS told
    FROM ingest.gaps WHERE stream = $1 AND frame_no = $2 AND gap_no = $3
), richer AS (
  SELECT gap.frame_no, gap.gap_no, gap.recovered - gap.expected AS spare, now.expected - now.came AS lacks,
         sum(gap.recovered - gap.expected) OVER (ORDER BY gap.frame_no, gap.gap_no) AS upto
    FROM ingest.gaps AS gap JOIN now USING (stream, feed, channel)
   WHERE now.told AND now.from_seq IS NOT NULL AND now.came < now.expected
     AND gap.from_seq IS NOT NULL AND gap.recovered > gap.expected
     AND gap.from_time <= now.to_time + interval '10 s' AND gap.to_time >= now.from_time - interval '10 s'
), handed AS (
  SELECT frame_no, gap_no, least(spare, lacks - (upto - spare))::bigint AS n FROM richer WHERE upto - spare < lacks
), left_over AS (
  UPDATE ingest.gaps AS gap SET recovered = gap.recovered - handed.n FROM handed
   WHERE gap.stream = $1 AND gap.frame_no = handed.frame_no AND gap.gap_no = handed.gap_no
), ended AS (
  SELECT total.recovered, CASE WHEN told THEN coalesce(expected, total.recovered) ELSE expected END AS expected,
         $5 = 'state' OR ($5 = 'complete' AND total.recovered >= coalesce(expected, 0)) AS whole
    FROM now, LATERAL (SELECT came + coalesce((SELECT sum(n) FROM handed), 0)::bigint AS recovered) AS total
)
UPDATE ingest.gaps AS gap
   SET recovered = ended.recovered, expected = ended.expected,
       repaired_at = CASE WHEN ended.whole THEN coalesce(gap.repaired_at, $6) ELSE gap.repaired_at END,
       repaired_as = CASE $5 WHEN 'state' THEN 'state' ELSE gap.repaired_as END,
       given_up_at = CASE WHEN $5 <> '' AND NOT ended.whole AND gap.repaired_at IS NULL
                          THEN coalesce(gap.given_up_at, $6) ELSE gap.given_up_at END,
       given_up_why = CASE WHEN $5 <> '' AND NOT ended.whole AND gap.repaired_at IS NULL
                           THEN coalesce(gap.given_up_why, CASE $5 WHEN 'complete' THEN 'venue_has_fewer' ELSE $5 END)
                           ELSE gap.given_up_why END
  FROM ended
 WHERE gap.stream = $1 AND gap.frame_no = $2 AND gap.gap_no = $3

-- coinbase_gaps --
-- Which holes in the trades' numbering to ask REST for; the product is the only part that a question is about.
SELECT frame_no, gap_no, channel, from_time, to_time, from_seq, to_seq, ARRAY[scope] AS parts FROM ingest.gaps
 WHERE stream = 'live' AND feed = 'coinbase' AND channel = 'matches' AND cause = 'sequence'
   AND to_time IS NOT NULL AND from_seq IS NOT NULL AND to_seq IS NOT NULL
   AND repaired_at IS NULL AND given_up_at IS NULL
 ORDER BY frame_no, gap_no LIMIT $1

-- kalshi_gaps --
-- Which times to ask REST for: first how the markets stand, which tells what markets there were, then their trades; of
-- these the counted holes first, as what else is asked for nearby would bring their trades and not count for them.
-- The parts are the markets that were open then, as far as there are not too many to be asked for one by one.
-- How markets stand is asked from the close of the oldest on that was not over when it was last described, within a day:
-- a kill may have come before its answer. Descriptions are live or past, found by the close that they name, those of the
-- past among the 40 days before the gap and what came since. Where a close was moved, an earlier one may stand in: that
-- asks for more.
SELECT frame_no, gap_no, channel,
       CASE channel WHEN 'trade' THEN gap.from_time ELSE least(gap.from_time, (
         SELECT min(close_time)
           FROM (SELECT DISTINCT ON (ticker) status, close_time FROM (
                   SELECT ticker, status, close_time, frame_no, row_no FROM live_data.market_data
                    WHERE close_time > gap.from_time - interval '1 day' AND close_time < gap.from_time
                      AND venue = 'kalshi' AND status IS NOT NULL
                    UNION ALL
                   SELECT ticker, status, close_time, frame_no, row_no FROM historical_data.market_data_history
                    WHERE close_time > gap.from_time - interval '1 day' AND close_time < gap.from_time
                      AND venue = 'kalshi' AND status IS NOT NULL
                      AND "timestamp" > gap.from_time - interval '40 days') AS described
                  ORDER BY ticker, frame_no DESC, row_no DESC) AS last
          WHERE status <> 'finalized')) END AS from_time,
       to_time, from_seq, to_seq,
       CASE channel WHEN 'trade' THEN ARRAY(
         SELECT ticker FROM live_data.market_data
          WHERE close_time >= gap.from_time AND open_time <= gap.to_time AND venue = 'kalshi'
          UNION
         SELECT ticker FROM historical_data.market_data_history
          WHERE close_time >= gap.from_time AND open_time <= gap.to_time AND venue = 'kalshi'
            AND "timestamp" > gap.from_time - interval '40 days'
          ORDER BY ticker LIMIT 2001) ELSE ARRAY[]::text[] END AS parts
  FROM ingest.gaps AS gap
 WHERE stream = 'live' AND feed = 'kalshi' AND channel IN ('trade', 'market_lifecycle_v2', 'rest')
   AND from_time IS NOT NULL AND to_time IS NOT NULL AND repaired_at IS NULL AND given_up_at IS NULL
 ORDER BY channel = 'trade', from_seq IS NULL, frame_no, gap_no LIMIT $1

-- known_trades --
-- Which trades of a time range are there already, live or rolled over: a file that is replayed may overlap with what
-- was live.
-- A venue's REST may give the same time with other decimals than its socket.
SELECT source, symbol, trade_id FROM historical_data.price_timeline
 WHERE symbol = ANY($1::text[]) AND trade_id = ANY($4::bigint[])
   AND "timestamp" BETWEEN $2::timestamptz - interval '1 second' AND $3::timestamptz + interval '1 second'

-- known_market_trades --
-- The same of markets' trades.
SELECT venue, ticker, trade_id FROM historical_data.market_timeline
 WHERE ticker = ANY($1::text[]) AND trade_id = ANY($4::text[])
   AND "timestamp" BETWEEN $2::timestamptz - interval '1 second' AND $3::timestamptz + interval '1 second'

-- kalshi_trades --
-- What a parser remembers of trades, after a start: the ids of the last by socket and by REST, the oldest first. Each
-- kind by itself, live and past: that way the index gives its newest without a sort of all. As with all of these, the
-- limit is that of the parser's memory, to the row, and what has rolled over counts as what has not. $1 is 40 days before
-- the last frame: only some months are looked at, and what is older and would still be within the limit is new again.
SELECT last.trade_id, kind.event_type
  FROM unnest(ARRAY['trade', 'rest_trade']) AS kind (event_type)
 CROSS JOIN LATERAL (
  SELECT * FROM (
    (SELECT trade_id, frame_no, row_no FROM live_data.websocket_market_data AS live
      WHERE venue = 'kalshi' AND live.event_type = kind.event_type AND live.event_type <> 'ticker'
      ORDER BY frame_no DESC, row_no DESC LIMIT 5000)
    UNION ALL
    (SELECT trade_id, frame_no, row_no FROM historical_data.market_history AS past
      WHERE venue = 'kalshi' AND past.event_type = kind.event_type AND past.event_type <> 'ticker' AND "timestamp" >= $1
      ORDER BY frame_no DESC, row_no DESC LIMIT 5000)) AS trades
   ORDER BY frame_no DESC, row_no DESC LIMIT 5000) AS last
 ORDER BY last.frame_no, last.row_no

-- kalshi_prints --
-- The same of the index.
SELECT symbol, "timestamp" FROM (
  SELECT * FROM (
    (SELECT symbol, "timestamp" FROM live_data.btc_price_log
      WHERE symbol = 'BRTI' AND venue = 'cfbenchmarks' ORDER BY "timestamp" DESC LIMIT 600)
    UNION ALL
    (SELECT symbol, "timestamp" FROM historical_data.price_history
      WHERE symbol = 'BRTI' AND source = 'cfbenchmarks' AND "timestamp" >= $1 ORDER BY "timestamp" DESC LIMIT 600)
    ) AS prints
   ORDER BY "timestamp" DESC LIMIT 600) AS last
 ORDER BY "timestamp"

-- kalshi_settled --
-- The same of markets that were said to be settled.
SELECT ticker FROM (
  SELECT * FROM (
    (SELECT ticker, frame_no, row_no FROM live_data.websocket_market_data
      WHERE venue = 'kalshi' AND event_type = 'settled' ORDER BY frame_no DESC, row_no DESC LIMIT 5000)
    UNION ALL
    (SELECT ticker, frame_no, row_no FROM historical_data.market_history
      WHERE venue = 'kalshi' AND event_type = 'settled' AND "timestamp" >= $1
      ORDER BY frame_no DESC, row_no DESC LIMIT 5000)) AS steps
   ORDER BY frame_no DESC, row_no DESC LIMIT 5000) AS last
 ORDER BY frame_no, row_no

-- kalshi_states --
-- The last description of each market that came by REST (a lifecycle message has no status), after its row's age.
SELECT DISTINCT ON (ticker) age, ticker, event_ticker, title, subtitle, status, strike_type, floor_strike, cap_strike,
       open_time, close_time, expected_expiration_time, settlement_time, result, expiration_value
  FROM (SELECT *, row_number() OVER (ORDER BY frame_no DESC, row_no DESC) AS age FROM (
    (SELECT ticker, event_ticker, title, subtitle, status, strike_type, floor_strike, cap_strike, open_time, close_time,
            expected_expiration_time, settlement_time, result, expiration_value, frame_no, row_no
       FROM live_data.market_data WHERE venue = 'kalshi' AND status IS NOT NULL
      ORDER BY frame_no DESC, row_no DESC LIMIT 20000)
    UNION ALL
    (SELECT ticker, event_ticker, title, subtitle, status, strike_type, floor_strike, cap_strike, open_time, close_time,
            expected_expiration_time, settlement_time, result, expiration_value, frame_no, row_no
       FROM historical_data.market_data_history WHERE venue = 'kalshi' AND status IS NOT NULL AND "timestamp" >= $1
      ORDER BY frame_no DESC, row_no DESC LIMIT 20000)) AS every) AS last
 WHERE age <= 20000
 ORDER BY ticker, age

-- kalshi_quotes --
-- The last quote of each market that came by REST, after its row's age.
SELECT DISTINCT ON (ticker) age, ticker, yes_bid, yes_bid_size, yes_ask, yes_ask_size, last_price, volume, open_interest
  FROM (SELECT *, row_number() OVER (ORDER BY frame_no DESC, row_no DESC) AS age FROM (
    (SELECT ticker, yes_bid, yes_bid_size, yes_ask, yes_ask_size, last_price, volume, open_interest, frame_no, row_no
       FROM live_data.websocket_market_data WHERE venue = 'kalshi' AND event_type = 'rest_quote'
      ORDER BY frame_no DESC, row_no DESC LIMIT 20000)
    UNION ALL
    (SELECT ticker, yes_bid, yes_bid_size, yes_ask, yes_ask_size, last_price, volume, open_interest, frame_no, row_no
       FROM historical_data.market_history WHERE venue = 'kalshi' AND event_type = 'rest_quote' AND "timestamp" >= $1
      ORDER BY frame_no DESC, row_no DESC LIMIT 20000)) AS every) AS last
 WHERE age <= 20000
 ORDER BY ticker, age

-- kalshi_refused --
-- Answers that were put aside for an odd market, as far as the parser remembers them: its state ($1) says which. The
-- quarantine does not roll over.
SELECT frame_no, received_at, frame
  FROM jsonb_array_elements_text($1::text::jsonb #> '{feeds,kalshi,refused}') AS refused (no)
  JOIN ingest.quarantine ON frame_no = no::bigint AND feed = 'kalshi' AND row_no = 0 AND replayed_at IS NULL
 ORDER BY frame_no

-- state_at --
-- What a parser knew after this frame of a spool, where a stream ends with it.
SELECT state::text FROM ingest.offsets WHERE spool_id = $1 AND frame_no = $2 AND state <> '{}' LIMIT 1

-- recent_prices --
-- What the price windows hold: of each (venue, symbol) the rows after a time, at most so many, the newest; in order of
-- their time, then of arrival. A window reaches back half an hour, which may be longer than rows stay live; the past is
-- read from $5 on, the earliest of these times, so that only its months are planned for. Repaired rows have no derived
-- columns, every other one has its minute's mean.
SELECT venue, symbol, "timestamp", price::text AS price
  FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS wanted (of_venue, of_symbol, after_time),
       LATERAL (SELECT * FROM (
         (SELECT venue, symbol, "timestamp", price, frame_no, row_no FROM live_data.btc_price_log
           WHERE symbol = of_symbol AND venue = of_venue AND "timestamp" > after_time AND one_minute_avg IS NOT NULL
           ORDER BY "timestamp" DESC, frame_no DESC, row_no DESC LIMIT $4)
         UNION ALL
         (SELECT p.source, p.symbol, p."timestamp", p.price, p.frame_no, p.row_no
            FROM historical_data.price_history AS p
           WHERE p.symbol = of_symbol AND p.source = of_venue AND p."timestamp" > after_time AND p."timestamp" >= $5
             AND EXISTS (SELECT FROM historical_data.momentum_history AS m
                          WHERE m.symbol = p.symbol AND m.source = p.source AND m."timestamp" = p."timestamp"
                            AND m.trade_id IS NOT DISTINCT FROM p.trade_id AND m.one_minute_avg IS NOT NULL
                            AND m."timestamp" >= $5)
           ORDER BY p."timestamp" DESC, p.frame_no DESC, p.row_no DESC LIMIT $4)) AS every
        ORDER BY "timestamp" DESC, frame_no DESC, row_no DESC LIMIT $4) AS held
 ORDER BY "timestamp", frame_no, row_no

-- strike_markets --
-- What was told of the markets that are not over, in order: descriptions, and the steps that open and end them. Over is
-- what closed a day before the last frame, so that a close that was moved forward is among it. The clock is the last
-- frame's, out of the stream's state ($2): frames may have waited. A market may be described days before it closes, and
-- not again: the past is read too, from $1 on, as of all that is recalled.
WITH clock AS (
  SELECT coalesce('epoch'::timestamptz + ($2::text::jsonb->>'last_ns')::bigint / 1000 * interval '1 microsecond',
                  '-infinity') AS at)
SELECT ticker, word, event_ticker, strike_type, floor_strike, cap_strike, close_time FROM (
  (SELECT ticker, status AS word, event_ticker, strike_type, floor_strike, cap_strike, close_time, frame_no, row_no
     FROM live_data.market_data
    WHERE close_time > (SELECT at FROM clock) - interval '1 day' ORDER BY close_time DESC LIMIT 50000)
  UNION ALL
  (SELECT ticker, status, event_ticker, strike_type, floor_strike, cap_strike, close_time, frame_no, row_no
     FROM historical_data.market_data_history
    WHERE close_time > (SELECT at FROM clock) - interval '1 day' AND "timestamp" >= $1
    ORDER BY close_time DESC LIMIT 50000)
  UNION ALL
  (SELECT ticker, status, event_ticker, strike_type, floor_strike, cap_strike, close_time, frame_no, row_no
     FROM live_data.market_data
    WHERE close_time IS NULL ORDER BY frame_no DESC LIMIT 5000)
  UNION ALL
  (SELECT ticker, status, event_ticker, strike_type, floor_strike, cap_strike, close_time, frame_no, row_no
     FROM historical_data.market_data_history
    WHERE close_time IS NULL AND "timestamp" >= $1 ORDER BY frame_no DESC LIMIT 5000)
  UNION ALL
  SELECT ticker, step.event_type, NULL, NULL, NULL, NULL, NULL, frame_no, row_no
    FROM unnest(ARRAY['activated', 'deactivated', 'determined', 'settled']) AS step (event_type)
   CROSS JOIN LATERAL (
     (SELECT ticker, frame_no, row_no FROM live_data.websocket_market_data AS live
       WHERE live.event_type = step.event_type AND live.event_type <> 'ticker' ORDER BY frame_no DESC LIMIT 5000)
     UNION ALL
     (SELECT ticker, frame_no, row_no FROM historical_data.market_history AS past
       WHERE past.event_type = step.event_type AND past.event_type <> 'ticker' AND past."timestamp" >= $1
       ORDER BY frame_no DESC LIMIT 5000)) AS last
 ) AS told
 ORDER BY frame_no, row_no

-- strike_quotes --
-- The newest quote of each market that is open, or opens within the hour, since it was described first. Newest is what
-- came last, which is among the last by the venue's time. A strike far from the price may have been quoted days ago.
WITH clock AS (
  SELECT coalesce('epoch'::timestamptz + ($2::text::jsonb->>'last_ns')::bigint / 1000 * interval '1 microsecond',
                  '-infinity') AS at
), markets AS (
  SELECT ticker, min(frame_no) AS since, min(open_time) AS opens FROM (
    (SELECT ticker, frame_no, open_time FROM live_data.market_data
      WHERE close_time > (SELECT at FROM clock) ORDER BY close_time LIMIT 50000)
    UNION ALL
    (SELECT ticker, frame_no, open_time FROM historical_data.market_data_history
      WHERE close_time > (SELECT at FROM clock) AND "timestamp" >= $1 ORDER BY close_time LIMIT 50000)) AS told
   GROUP BY ticker)
SELECT k.ticker, q.yes_bid, q.yes_ask, q.no_bid, q.no_ask, q.last_price, q.volume, q.open_interest
  FROM markets k
 CROSS JOIN LATERAL (
  SELECT * FROM (
    (SELECT yes_bid, yes_ask, no_bid, no_ask, last_price, volume, open_interest, frame_no, row_no
       FROM live_data.websocket_market_data live
      WHERE live.ticker = k.ticker AND event_type IN ('ticker', 'rest_quote') AND frame_no >= k.since
      ORDER BY "timestamp" DESC LIMIT 20)
    UNION ALL
    (SELECT yes_bid, yes_ask, no_bid, no_ask, last_price, volume, open_interest, frame_no, row_no
       FROM historical_data.market_history past
      WHERE past.ticker = k.ticker AND event_type IN ('ticker', 'rest_quote') AND frame_no >= k.since
        AND past."timestamp" >= $1
      ORDER BY "timestamp" DESC LIMIT 20)) AS last
   ORDER BY frame_no DESC, row_no DESC LIMIT 1) q
 WHERE k.opens IS NULL OR k.opens <= (SELECT at FROM clock) + interval '1 hour' LIMIT 20000

-- strike_rows --
-- What the last row of the ladder said of each of them, however long it has not changed. A second's mark is its row's
-- time and its arrival.
WITH clock AS (
  SELECT coalesce('epoch'::timestamptz + ($2::text::jsonb->>'last_ns')::bigint / 1000 * interval '1 microsecond',
                  '-infinity') AS at
), markets AS (
  SELECT ticker, min(open_time) AS opens FROM (
    (SELECT ticker, open_time FROM live_data.market_data
      WHERE close_time > (SELECT at FROM clock) ORDER BY close_time LIMIT 50000)
    UNION ALL
    (SELECT ticker, open_time FROM historical_data.market_data_history
      WHERE close_time > (SELECT at FROM clock) AND "timestamp" >= $1 ORDER BY close_time LIMIT 50000)) AS told
   GROUP BY ticker)
SELECT k.ticker, r.yes_bid, r.yes_ask, r.no_bid, r.no_ask
  FROM markets k
 CROSS JOIN LATERAL (
  SELECT * FROM (
    (SELECT yes_bid, yes_ask, no_bid, no_ask, received_at FROM live_data.btc_live_strikes live
      WHERE live.ticker = k.ticker ORDER BY received_at DESC LIMIT 1)
    UNION ALL
    (SELECT yes_bid, yes_ask, no_bid, no_ask, "timestamp" FROM historical_data.strike_history past
      WHERE past.ticker = k.ticker AND past."timestamp" >= $1 ORDER BY "timestamp" DESC LIMIT 1)) AS last
   ORDER BY received_at DESC LIMIT 1) r
 WHERE k.opens IS NULL OR k.opens <= (SELECT at FROM clock) + interval '1 hour' LIMIT 20000

-- open_quarantine --
-- The next frames that are still unused, in order of arrival. Rows of an old file are no frames.
SELECT quarantine_id, stream, frame_no, row_no, feed, received_at, frame FROM ingest.quarantine
 WHERE replayed_at IS NULL AND stream NOT LIKE 'backfill/%' AND quarantine_id > $1 ORDER BY quarantine_id LIMIT $2

-- close_quarantine --
-- Only what is still open: two that replay at once use a frame once. All entries of the frame: it is counted once.
UPDATE ingest.quarantine SET replayed_at = clock_timestamp()
 WHERE stream = $1 AND frame_no = $2 AND replayed_at IS NULL

-- move_from_quarantine --
-- The frame's outcome changes; the books still balance.
UPDATE ingest.offsets SET quarantined_frames = quarantined_frames - $2, shipped_frames = shipped_frames + $3,
       duplicate_frames = duplicate_frames + $4, state_frames = state_frames + $5
 WHERE stream = $1

-- delete_frame_rows --
-- Rows of a frame that is decoded again are replaced, not added to.
DELETE FROM {table} WHERE frame_no = $1 AND row_no = ANY($2::integer[])

-- delete_old_frame_rows --
-- The same where they have rolled over; files of other times may have used the same number.
DELETE FROM {table} WHERE frame_no = $1 AND row_no = ANY($2::integer[]) AND received_at = $3

-- settlement_first --
-- The first close from a time on, of whatever event. $2: as in settlement_events, 40 days before that.
SELECT min(close_time) FROM (
  (SELECT min(close_time) AS close_time FROM live_data.market_data WHERE close_time >= $1)
  UNION ALL
  (SELECT min(close_time) FROM historical_data.market_data_history WHERE close_time >= $1 AND "timestamp" >= $2)) AS first

-- settlement_events --
-- The events of a venue's series ($1, $2) that closed in [$3, $4): when, by the newest description of each market, and
-- on what. Markets are found by any description that names such a close, as a close may be moved, and then looked at by
-- their tickers; some of an event's over midnight: so those of [$8, $9) are, a day before and after, and an event is of
-- the day on which the last of them closes. Those found equal earlier, at this close and value, come again only if all
-- are asked for ($5). What was computed from all prints of this close goes along, and what was published if no row names
-- it any more: the rows may be in the archive.
-- A description is dated by its change, so that history is read near the closes only: in [$6, $7], 40 days before and
-- after. These are no sums in here, as those are not constant while a plan is made, and one of 400 months takes 0.3 s.
WITH told AS (
  SELECT DISTINCT ticker FROM (
    SELECT ticker FROM live_data.market_data
     WHERE close_time >= $8 AND close_time < $9 AND venue = $1 AND split_part(ticker, '-', 1) = ANY($2::text[])
    UNION ALL
    SELECT ticker FROM historical_data.market_data_history
     WHERE close_time >= $8 AND close_time < $9 AND venue = $1 AND split_part(ticker, '-', 1) = ANY($2::text[])
       AND "timestamp" BETWEEN $6 AND $7) AS named
), markets AS (
  SELECT said.* FROM told CROSS JOIN LATERAL (
    SELECT min(event_ticker) AS event_ticker,
           (array_agg(close_time ORDER BY frame_no DESC, row_no DESC) FILTER (WHERE close_time IS NOT NULL))[1]
             AS close_time,
           (array_agg(expiration_value ORDER BY frame_no DESC, row_no DESC)
             FILTER (WHERE expiration_value IS NOT NULL))[1] AS published
      FROM (SELECT event_ticker, close_time, expiration_value, frame_no, row_no FROM live_data.market_data AS live
             WHERE live.ticker = told.ticker AND live.venue = $1
            UNION ALL
            SELECT event_ticker, close_time, expiration_value, frame_no, row_no
              FROM historical_data.market_data_history AS past
             WHERE past.ticker = told.ticker AND past.venue = $1
               AND past."timestamp" BETWEEN $6 AND $7
           ) AS every) AS said
), events AS (
  SELECT event_ticker, array_agg(DISTINCT close_time) AS close_times,
         coalesce(array_agg(DISTINCT published) FILTER (WHERE published IS NOT NULL), '{}') AS published
    FROM markets WHERE event_ticker IS NOT NULL AND close_time IS NOT NULL GROUP BY event_ticker
  HAVING max(close_time) >= $3 AND max(close_time) < $4
)
SELECT events.event_ticker, close_times, value.published, known.computed
  FROM events
  LEFT JOIN ingest.settlements AS known
         ON known.event_ticker = events.event_ticker AND ARRAY[known.close_time] = events.close_times
 CROSS JOIN LATERAL (
   SELECT CASE WHEN events.published = '{}' AND known.published IS NOT NULL THEN ARRAY[known.published]
               ELSE events.published END AS published) AS value
 WHERE $5 OR NOT coalesce(known.outcome = 'equal' AND ARRAY[known.published] = value.published, false)
 ORDER BY close_times, event_ticker

-- settlement_prints --
-- What an index ($1, $2) printed in the minute before each of these closes ($3), all of it in [$4, $5): so only the
-- months that matter are planned for.
SELECT closes.at, print."timestamp", print.price
  FROM unnest($3::timestamptz[]) AS closes (at)
 CROSS JOIN LATERAL (
   SELECT "timestamp", price FROM live_data.btc_price_log
    WHERE venue = $1 AND symbol = $2 AND "timestamp" >= closes.at - interval '60 seconds' AND "timestamp" < closes.at
   UNION ALL
   SELECT "timestamp", price FROM historical_data.price_history
    WHERE source = $1 AND symbol = $2 AND "timestamp" >= closes.at - interval '60 seconds' AND "timestamp" < closes.at
      AND "timestamp" >= $4 AND "timestamp" < $5) AS print

-- settlement_gaps --
-- What the ledger says of a feed's channel ($1, $2) and the minutes before these closes ($3). The ledger is read whole,
-- and only when a print is missing: no index would serve "begun before and ended after".
SELECT closes.at, frame_no, gap_no, cause, from_time, to_time
  FROM unnest($3::timestamptz[]) AS closes (at)
  JOIN ingest.gaps ON from_time < closes.at AND coalesce(to_time, 'infinity') >= closes.at - interval '60 seconds'
 WHERE feed = $1 AND channel IN ('*', $2)
 ORDER BY closes.at, from_time, frame_no, gap_no

-- put_settlement --
-- A check that finds what was found before changes nothing.
INSERT INTO ingest.settlements AS known (event_ticker, venue, close_time, prints, computed, published, outcome, why)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (event_ticker) DO UPDATE
   SET venue = excluded.venue, close_time = excluded.close_time, prints = excluded.prints,
       computed = excluded.computed, published = excluded.published, outcome = excluded.outcome, why = excluded.why,
       checked_at = clock_timestamp()
 WHERE (known.venue, known.close_time, known.prints, known.computed, known.published, known.outcome, known.why)
       IS DISTINCT FROM (excluded.venue, excluded.close_time, excluded.prints, excluded.computed, excluded.published,
                         excluded.outcome, excluded.why)

-- settlement_counts --
-- What was found of the events that closed since a time.
SELECT outcome, count(*) FROM ingest.settlements WHERE close_time >= $1 GROUP BY outcome

-- settlement_last --
-- The newest close that was looked at.
SELECT max(close_time) FROM ingest.settlements

-- make_partition --
-- Makes one partition unless it is there already: table, name, key column, lower and upper bound.
SELECT ingest.make_partition_v1($1, $2, $3, $4, $5)

-- partitioned_until --
-- Where the last partition of a table ends: rows from then on fall into the DEFAULT partition.
SELECT ingest.partitioned_until_v1($1::text::regclass)

-- rollover_session --
-- A slice is either moved or not, also when the server falls with its commit still in memory: it need not be waited for,
-- and ingest does not queue behind its flush. What left is held in memory until it has been compared.
SELECT set_config('synchronous_commit', 'off', false), set_config('work_mem', '64MB', false)

-- live_leaves --
-- The partitions of a live table that may hold rows of before a time ($2), the oldest first, then DEFAULT; whether all
-- that one may ever hold is older.
SELECT format('%I.%I', n.nspname, c.relname) AS leaf, coalesce(b.upper <= $2, false) AS aged, b.upper IS NULL AS other
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
       LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS expr) e,
       LATERAL (SELECT (regexp_match(e.expr, 'FROM \(''([^'']+)''\)'))[1]::timestamptz AS lower,
                       (regexp_match(e.expr, 'TO \(''([^'']+)''\)'))[1]::timestamptz AS upper) b
 WHERE i.inhparent = $1::text::regclass AND (b.lower IS NULL OR b.lower < $2)
 ORDER BY b.lower NULLS LAST

-- next_slice --
-- The next rows of a partition behind a place, as they lie: where they end, how many are older than a time, and the
-- months of those.
WITH next AS NOT MATERIALIZED (
  SELECT ctid, received_at, "timestamp" FROM ONLY {leaf} WHERE ctid > $1::text::tid LIMIT $3
), seen AS (
  SELECT max(ctid) AS last, count(*) AS found, count(*) FILTER (WHERE received_at < $2) AS aged,
         date_trunc('month', min("timestamp") FILTER (WHERE received_at < $2), 'UTC') AS first_month,
         date_trunc('month', max("timestamp") FILTER (WHERE received_at < $2), 'UTC') AS last_month
    FROM next
)
SELECT last::text, found, aged,
       CASE WHEN first_month = last_month THEN ARRAY[first_month] -- and not one of each row, which takes ten times as long
            ELSE (SELECT array_agg(DISTINCT date_trunc('month', "timestamp", 'UTC')) FROM next WHERE received_at < $2) END
         AS months
  FROM seen

-- rollover_turn --
-- One slice at a time, whoever else rolls over.
SELECT pg_try_advisory_xact_lock(7307190614)

-- roll_slice --
-- What is older than $3 between two places of a partition leaves it, and arrives in each table that it goes to: one
-- statement, so that whoever reads sees each row once. Its parts are below.
WITH gone AS MATERIALIZED (
  DELETE FROM ONLY {leaf}
   WHERE ctid > $1::text::tid AND ctid <= $2::text::tid AND received_at < $3 RETURNING *
), touched AS (
  SELECT array_agg(venue) AS sources, array_agg(symbol) AS symbols, array_agg(minute) AS minutes
    FROM ({touched}) AS each
){arrivals}
SELECT verdict.*, touched.* FROM ({verdicts}) AS verdict, touched

-- touched_minutes --
-- Whose candles have to be made again.
SELECT DISTINCT venue, symbol, date_bin('1 minute', "timestamp", '2000-01-01Z') AS minute FROM gone

-- touched_nothing --
-- Tables without candles.
SELECT NULL::text AS venue, NULL::text AS symbol, NULL::timestamptz AS minute WHERE false

-- roll_left --
-- What of a slice goes to one table.
{part}_left AS NOT MATERIALIZED (
  SELECT {values} FROM gone WHERE {which}
)

-- roll_arrival --
-- What of that arrived: the rest was there already, by its key.
{part}_came AS (
  INSERT INTO {target} ({columns}) SELECT {columns} FROM {part}_left
      ON CONFLICT DO NOTHING RETURNING {columns}
)

-- roll_arrival_new --
-- The same where none of it was there: without ON CONFLICT a row costs a third less, and one that was there fails it all.
{part}_came AS (
  INSERT INTO {target} ({columns}) SELECT {columns} FROM {part}_left
    RETURNING hash_record_extended(ROW({columns}), 0) AS hash
)

-- roll_verdict_new --
-- Of such a slice counts and sums say all.
SELECT '{target}' AS target, l.rows AS deleted, c.rows AS inserted, l.checksum AS left_sum, c.checksum AS came_sum,
       l.rows - c.rows AS lost, 0 AS differing, 0 AS strange
  FROM (SELECT count(*) AS rows, sum(hash_record_extended(ROW({columns}), 0)) AS checksum FROM {part}_left) AS l
 CROSS JOIN (SELECT count(*) AS rows, sum(hash) AS checksum FROM {part}_came) AS c

-- roll_verdict --
-- Counts and sums of 64-bit hashes of what left and of what came. Where fewer came than left, each row that left and has a
-- key must be there by it (`lost`: those that are not; `differing`: what is there says something else), as many without
-- one have come as left, and each that came be one of those that left (`strange`: those that are not). The comparison
-- costs nothing where it is not needed.
SELECT '{target}' AS target, l.rows AS deleted, c.rows AS inserted, l.checksum AS left_sum, c.checksum AS came_sum,
       lost, differing, strange
  FROM (SELECT count(*) AS rows, sum(hash_record_extended(ROW({columns}), 0)) AS checksum FROM {part}_left) AS l
 CROSS JOIN (SELECT count(*) AS rows, sum(hash_record_extended(ROW({columns}), 0)) AS checksum FROM {part}_came) AS c
 CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE there IS NULL) + greatest(0,
           (SELECT count(*) FROM {part}_left WHERE l.rows <> c.rows AND NOT ({keyed}))
           - (SELECT count(*) FROM {part}_came WHERE l.rows <> c.rows AND NOT ({keyed}))) AS lost,
         count(*) FILTER (WHERE there <> hash) AS differing
    FROM (SELECT a.hash, coalesce(b.hash, (SELECT hash_record_extended(ROW({columns}), 0) FROM {target} h
                                            WHERE {same} LIMIT 1)) AS there
            FROM (SELECT *, hash_record_extended(ROW({columns}), 0) AS hash, hash_record_extended(ROW({key}), 0) AS named
                    FROM {part}_left WHERE l.rows <> c.rows AND {keyed}) AS a
            LEFT JOIN (SELECT hash_record_extended(ROW({columns}), 0) AS hash,
                              hash_record_extended(ROW({key}), 0) AS named
                         FROM {part}_came WHERE l.rows <> c.rows AND {keyed}) AS b
              USING (named)) AS compared) AS known
 CROSS JOIN LATERAL (
  SELECT count(*) AS strange
    FROM (SELECT hash_record_extended(ROW({columns}), 0) AS hash FROM {part}_came WHERE l.rows <> c.rows
          EXCEPT ALL
          SELECT hash_record_extended(ROW({columns}), 0) AS hash FROM {part}_left WHERE l.rows <> c.rows) AS others) AS more

-- refresh_candles --
-- In the transaction that moved the prices.
SELECT historical_data.refresh_candles_v1($1::text[], $2::text[], $3::timestamptz[])

-- note_rollover --
-- In the transaction of the slice.
INSERT INTO ingest.rollovers (source_table, partition, first_ctid, last_ctid, received_until, target_table,
                              deleted_rows, inserted_rows, present_rows, differing_rows, checksum, started_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- leaf_is_empty --
-- Before a partition is dropped.
SELECT NOT EXISTS (SELECT FROM ONLY {leaf})

-- running_transactions --
-- Whoever may hold an older view of the rows.
SELECT virtualxid FROM pg_locks WHERE locktype = 'virtualxid' AND pid <> pg_backend_pid()

-- drop_live_partition --
-- If it is empty and ends before a time; waits 50 ms for readers, all in all.
SELECT ingest.drop_live_partition_v2($1, $2)

-- default_rows --
-- What found no partition: how many, and of which months.
SELECT count(*) AS found, array_agg(DISTINCT date_trunc('month', "timestamp", 'UTC')) AS months
  FROM ONLY {table}_default

-- migrations_exist --
-- Asked of the catalog, which any login may read.
SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'ingest' AND tablename = 'schema_migrations')

-- applied_migrations --
-- What was applied here, to be compared with the files.
SELECT version, name, sha256 FROM ingest.schema_migrations ORDER BY version

-- make_migrations --
-- Made by the program and not by a migration: it has to be there before the first one.
CREATE SCHEMA IF NOT EXISTS ingest;
CREATE TABLE IF NOT EXISTS ingest.schema_migrations (
  version    integer     PRIMARY KEY,
  name       text        NOT NULL,
  sha256     text        NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp())

-- note_migration --
-- In the transaction that applied it.
INSERT INTO ingest.schema_migrations (version, name, sha256) VALUES ($1, $2, $3)

-- lock_migrations --
-- Held to the end of the transaction: two that migrate at once do it one after the other.
SELECT pg_advisory_xact_lock(7307190612)

-- predecessor_objects --
-- What lies under our names and no migration of ours made, and the statement that moves it aside; a table takes its
-- indexes and sequences with it. Functions too: a second one of the same name would make calls ambiguous.
SELECT n.nspname || '.' || c.relname AS name,
       format('ALTER %s %I.%I SET SCHEMA rec_io_v2', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
              n.nspname, c.relname) AS move
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v')
   AND ((n.nspname = 'live_data'
         AND c.relname IN ('btc_price_log', 'market_data', 'websocket_market_data', 'btc_live_strikes'))
     OR (n.nspname = 'historical_data' AND c.relname IN ('price_history', 'momentum_history'))
     OR (n.nspname = 'users'
         AND (c.relname ~ '^(trades|active_trades|fills|settlements|positions)(_[0-9]{4})?$'
              OR c.relname IN ('active_trades_view', 'recent_trades_view', 'trade_performance_view'))))
UNION ALL
SELECT n.nspname || '.' || p.proname || '()',
       format('ALTER FUNCTION %I.%I(%s) SET SCHEMA rec_io_v2', n.nspname, p.proname,
              pg_get_function_identity_arguments(p.oid))
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'users' AND p.proname IN ('update_trade_status', 'get_trade_statistics', 'create_user')
 ORDER BY 1

-- backfill_quarantined --
-- The source rows of a load that are in the quarantine, in their order. $1: the load's stream.
SELECT DISTINCT ON (frame_no) frame_no, reason FROM ingest.quarantine WHERE stream = $1 ORDER BY frame_no, quarantine_id

-- backfill_fingerprints --
-- PostgreSQL's half of the verification: for each block of rows, those of this load apart ($1), how many there are, the
-- sum of their fingerprints, and what every column holds. The same is computed from the file, by other means.
SELECT {block} AS block, backfill_id IS NOT DISTINCT FROM $1 AS mine,
       count(*), sum(('x' || left(md5({row}), 16))::bit(64)::bigint), {figures}
  FROM {leaf} WHERE {fixed} GROUP BY 1, 2

-- backfill_rows --
-- Single rows, field by field as the fingerprint sees them, to name what differs.
SELECT {key} AS key, ARRAY[{fields}] AS fields FROM {leaf} WHERE {fixed} AND {first} = ANY ($1::text[]::{kind}[])

-- backfill_orphans --
-- Rows that refer to a row that is not there.
SELECT count(*) FROM {leaf} l WHERE NOT EXISTS (SELECT FROM {target} t WHERE t.id = l.{column})

-- backfill_types --
-- The types of a table's columns. $1: its name.
SELECT attname, format_type(atttypid, NULL) AS kind FROM pg_attribute
 WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped

-- backfill_key_is_unique --
-- Whether a valid unique index makes sure that no key comes twice. $1: the table, $2: the key's columns; where rows of
-- other origin have a number of their own, the index has it too ($3).
SELECT EXISTS (
  SELECT FROM pg_index i
   WHERE i.indrelid = $1::text::regclass AND i.indisunique AND i.indisvalid AND i.indisready AND i.indpred IS NULL
     AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
           WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)) IN ($2::text[], $3::text[]))

-- backfill_hash --
-- The blocks are some thousands, which the planner cannot know: without this it sorts whole rows on disk.
SELECT set_config('work_mem', '64MB', true), set_config('enable_sort', 'off', true)

-- idle_patience --
-- A transaction may be idle while a file is read for a verification, or written and made durable for the archive.
SET LOCAL idle_in_transaction_session_timeout = 0

-- make_aside --
-- Where what is the predecessor's is moved to.
CREATE SCHEMA IF NOT EXISTS rec_io_v2

-- backfill_has_rows --
-- Whether any key can be there already.
SELECT EXISTS (SELECT FROM {leaf})

-- backfill_begin --
-- Nobody has loaded this file's table for this user; of two that find this at once, one inserts.
INSERT INTO ingest.backfills (file_name, file_sha256, file_size_bytes, source_table, user_id, target)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (file_sha256, source_table, user_id) WHERE state <> 'undone' DO NOTHING

-- backfill_find --
-- Where the load of a file's table for a user stands.
SELECT backfill_id, state, last_rowid, source_rows, inserted_rows, present_rows, quarantined_rows
  FROM ingest.backfills
 WHERE file_sha256 = $1 AND source_table = $2 AND user_id IS NOT DISTINCT FROM $3 AND state <> 'undone'
   FOR UPDATE

-- backfill_resume --
-- A load that failed goes on.
UPDATE ingest.backfills SET state = 'running' WHERE backfill_id = $1 AND state = 'failed'

-- backfill_fail --
-- The file could not be read to its end.
UPDATE ingest.backfills SET state = 'failed' WHERE backfill_id = $1 AND state = 'running'

-- backfill_reasons --
-- What is in the quarantine of a load, by the first reason of each row.
SELECT reason, count(*) AS rows FROM ingest.quarantine WHERE stream = $1 GROUP BY reason

-- backfill_read --
-- Where a load stands; read again after every error.
SELECT backfill_id, state, last_rowid, source_rows, inserted_rows, present_rows, quarantined_rows, file_name,
       source_table, user_id, target
  FROM ingest.backfills WHERE backfill_id = $1

-- backfill_advance --
-- Of every batch: no row means that this batch is in already, or that another program loads the same file.
UPDATE ingest.backfills
   SET last_rowid = $3, source_rows = source_rows + $4, inserted_rows = inserted_rows + $5,
       present_rows = present_rows + $6, quarantined_rows = quarantined_rows + $7
 WHERE backfill_id = $1 AND last_rowid IS NOT DISTINCT FROM $2 AND state = 'running'

-- backfill_end --
-- All rows are in; the books have to add up. A load that was ended before may be verified again.
UPDATE ingest.backfills SET state = 'done', finished_at = coalesce(finished_at, clock_timestamp())
 WHERE backfill_id = $1 AND state <> 'undone'

-- backfill_verdict --
-- What the verification found, and the report for later.
UPDATE ingest.backfills SET verified = $2, report = $3::text::json WHERE backfill_id = $1

-- backfill_known_id --
-- Which of these keys are there, by their places, and which load brought them.
SELECT k.n, t.backfill_id FROM unnest($1::bigint[]) WITH ORDINALITY AS k (id, n) JOIN {leaf} t ON t.id = k.id

-- backfill_known_fills --
-- The same of fills.
SELECT k.n, t.backfill_id
  FROM unnest($1::text[]) WITH ORDINALITY AS k (trade_id, n) JOIN {leaf} t ON t.trade_id = k.trade_id

-- backfill_known_settlements --
-- The same of settlements; no time is one time too.
SELECT k.n, t.backfill_id
  FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS k (ticker, settled_time, n)
  JOIN {leaf} t ON t.ticker = k.ticker AND t.settled_time IS NOT DISTINCT FROM k.settled_time

-- backfill_known_positions --
-- The same of positions.
SELECT k.n, t.backfill_id
  FROM unnest($1::text[]) WITH ORDINALITY AS k (ticker, n) JOIN {leaf} t ON t.ticker = k.ticker

-- backfill_known_prices --
-- The same of prices and of what was derived of them; a file's rows have no trade.
SELECT k.n, t.backfill_id
  FROM unnest($1::timestamptz[]) WITH ORDINALITY AS k ("timestamp", n)
  JOIN {leaf} t ON t.source = $2 AND t.symbol = $3 AND t."timestamp" = k."timestamp" AND t.trade_id IS NULL

-- backfill_sequences --
-- After a load: ids that programs give from now on come after those that were loaded.
SELECT users.sync_sequences_v1($1)

-- backfill_undo_lock --
-- The load that is to be undone, held until it is.
SELECT backfill_id, state, source_table, user_id, target, inserted_rows FROM ingest.backfills WHERE backfill_id = $1 FOR UPDATE

-- backfill_undo_rows --
-- What a load inserted and nobody has changed since.
DELETE FROM {leaf} WHERE backfill_id = $1 AND updated_at = created_at

-- backfill_undo_trades --
-- The same of trades, but for those that another load or a program refers to.
DELETE FROM {leaf} t
 WHERE backfill_id = $1 AND updated_at = created_at
   AND NOT EXISTS (SELECT FROM {active} a WHERE a.trade_id = t.id)

-- backfill_minutes --
-- Which minutes have prices of a load.
SELECT DISTINCT date_trunc('minute', "timestamp", 'UTC') FROM {leaf} WHERE backfill_id = $1 ORDER BY 1

-- backfill_undo_prices --
-- Prices are never changed.
DELETE FROM {leaf} WHERE backfill_id = $1

-- backfill_undo_quarantine --
-- The rows of a file that were set aside go with it.
DELETE FROM ingest.quarantine WHERE stream = $1

-- backfill_left --
-- What stays of an undone load.
SELECT id FROM {leaf} WHERE backfill_id = $1 ORDER BY id LIMIT $2

-- backfill_undone --
-- From here on the file may be loaded anew.
UPDATE ingest.backfills SET state = 'undone', undone_at = clock_timestamp() WHERE backfill_id = $1
-- due_partitions --
-- Months of history that ended before a time, the oldest first, with their archive if there is one. One that was brought
-- back stays: somebody wants it. The DEFAULT partitions are no months.
WITH months AS (
  SELECT p.oid AS parent, n.nspname || '.' || p.relname AS table_name, n.nspname || '.' || c.relname AS partition_name,
         (regexp_match(b.bound, 'FROM \(''([^'']+)''\)'))[1]::timestamptz AS lower,
         (regexp_match(b.bound, 'TO \(''([^'']+)''\)'))[1]::timestamptz AS upper
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b
   WHERE n.nspname = 'historical_data' AND c.relkind = 'r' AND b.bound <> 'DEFAULT'
)
SELECT m.table_name, m.partition_name, m.lower, m.upper
  FROM months m
 WHERE m.upper <= $1
   AND NOT EXISTS (SELECT FROM ingest.archives a
                    WHERE a.partition_name = m.partition_name
                      AND a.restored_at > coalesce(a.dropped_at, '-infinity'))
 ORDER BY m.upper, m.partition_name

-- relation_columns --
-- The columns of a table in their order.
SELECT attname::text AS name, format_type(atttypid, NULL) AS kind
  FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum

-- fits_decimal --
-- Whether every value of a column fits into 38 digits, 18 of them places; NaN and the infinities do not.
SELECT coalesce(bool_and(coalesce(scale("{column}") <= 18, false) AND abs("{column}") < 1e20), true)
  FROM {relation} WHERE "{column}" IS NOT NULL

-- rows_checksum --
-- How many rows, from when to when, and what tells them from any others.
SELECT row_count, min_time, max_time, checksum::text FROM ingest.rows_checksum_v1($1::text::regclass, $2)

-- relation_pages --
-- How many pages a table has: what slices by ctid go up to.
SELECT (pg_relation_size($1::text::regclass) / current_setting('block_size')::integer)::integer

-- archived_slice --
-- The rows of some pages, as the archive has them. A TID range scan: no page is read twice.
SELECT {fields} FROM {relation} WHERE ctid >= '({first},0)' AND ctid < '({after},0)'

-- note_archive --
-- In the books once it was read back and compared; again, if the same file was there already.
INSERT INTO ingest.archives (table_name, partition_name, lower_bound, upper_bound, columns, row_count, min_time, max_time,
                             checksum, file_name, file_size_bytes, file_sha256)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::numeric, $10, $11, $12)
ON CONFLICT (partition_name, file_sha256) DO UPDATE SET file_name = excluded.file_name, archived_at = clock_timestamp()
RETURNING archive_id

-- drop_archived --
-- Drops a partition if it still is what its archive has; false if it has changed.
SELECT ingest.drop_archived_v2($1)

-- begin_restore --
-- The table to load into, whose name it gives, and the one for what comes out of the file.
SELECT ingest.begin_restore_v2($1, $2, $3, $4, $5, $6)

-- fill_restored --
-- What came out of the file, as the rows that they were.
INSERT INTO {relation} ({columns}) SELECT {values} FROM {relation}_staged

-- empty_staged --
-- Room for the next group.
TRUNCATE {relation}_staged

-- end_restore --
-- A partition again.
SELECT ingest.end_restore_v2($1, $2, $3, $4)

-- merge_restored --
-- Where the partition is there already.
SELECT ingest.merge_restored_v1($1)

-- relation_exists --
-- Whether there is a table of this name.
SELECT to_regclass($1) IS NOT NULL

-- archived_otherwise --
-- Whether the books know files of a partition, and not this one; NULL where they know none.
SELECT bool_and(file_sha256 <> $2) FROM ingest.archives WHERE partition_name = $1

-- restored_already --
-- Whether a file's rows were brought back and have not been dropped since.
SELECT to_regclass($1) IS NOT NULL
   AND EXISTS (SELECT FROM ingest.archives WHERE partition_name = $1 AND file_sha256 = $2
                  AND restored_at > coalesce(dropped_at, '-infinity'))

-- note_restored --
-- Wanted here again; also where this database never knew of the archive.
INSERT INTO ingest.archives (table_name, partition_name, lower_bound, upper_bound, columns, row_count, min_time, max_time,
                             checksum, file_name, file_size_bytes, file_sha256, restored_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::numeric, $10, $11, $12, clock_timestamp())
ON CONFLICT (partition_name, file_sha256) DO UPDATE SET restored_at = clock_timestamp()

-- one_archiver --
-- False while another program archives in this database; held as long as the connection.
SELECT pg_try_advisory_lock(7307190619)
