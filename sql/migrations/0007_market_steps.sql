-- What the daemon reads back at every start to know what it has already: the last trades, the last steps of markets'
-- lives, the last quotes by REST. They are few beside the tickers, which are not in this index.
CREATE INDEX websocket_market_data_steps ON live_data.websocket_market_data (event_type, frame_no)
 WHERE event_type <> 'ticker';

-- And the last descriptions by REST; lifecycle messages have no status.
CREATE INDEX market_data_states ON live_data.market_data (frame_no) WHERE status IS NOT NULL;
