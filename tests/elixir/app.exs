# A BEAM endpoint for the end-to-end tests and the demo: Cowboy 2.8 with HTTP/1.1, HTTP/2 by prior knowledge and
# WebSockets. It must not know Tidelock: what it sees is what any Elixir application behind the balancer sees.
#
# Started by run.sh. Paths (all GET unless said):
#
#   /                  a page: this endpoint's name, the session's counter, a WebSocket's ticks
#   /counter           {"endpoint","session","count"}: counts in memory, so a moved session starts again at 1
#   /ws                WebSocket: says hello, echoes every frame, ticks (?ticks=off, ?tick_ms=1000); the text
#                      "close 1012" closes with that code
#   /sse               server-sent events, ?ms=1000 between them, ?n= ends after so many
#   /slow              a response of ?chunks=10, ?ms=100 apart
#   /upload            POST: reads the whole body (?read_ms= waits before each read),
#                      answers {"bytes","sha256","complete":true}
#   /upload-ignored    POST: answers 429 at once and reads nothing
#   /half              POST: reads half of content-length, then answers
#   /headers           the request as it arrived: method, version, headers
#   /log               how each upload and WebSocket ended, oldest first (?tag= filters by the request's own ?tag=);
#                      DELETE empties it
#
# A session is named by ?sid=, else the header `tidelock`, else one of the cookies sid, session, tidelock; else this
# endpoint makes one and sets the cookie sid.

defmodule Json do
  @moduledoc "Just enough: maps, lists, binaries, atoms, integers."

  def encode(map) when is_map(map),
    do: [
      "{",
      map |> Enum.sort() |> Enum.map(fn {k, v} -> [encode(to_string(k)), ":", encode(v)] end) |> Enum.intersperse(","),
      "}"
    ]

  def encode(list) when is_list(list), do: ["[", list |> Enum.map(&encode/1) |> Enum.intersperse(","), "]"]
  def encode(value) when value in [nil, true, false], do: if(value == nil, do: "null", else: to_string(value))
  def encode(value) when is_integer(value), do: Integer.to_string(value)
  def encode(value) when is_atom(value), do: encode(Atom.to_string(value))

  def encode(text) when is_binary(text) do
    escaped =
      for <<byte <- text>>, into: "" do
        case byte do
          ?" -> "\\\""
          ?\\ -> "\\\\"
          byte when byte < 0x20 or byte > 0x7E -> "\\u00" <> Base.encode16(<<byte>>)
          byte -> <<byte>>
        end
      end

    ["\"", escaped, "\""]
  end
end

defmodule Log do
  @moduledoc "What ended how. A public table, since every connection process writes and a crash must lose nothing."

  def start, do: :ets.new(:log, [:ordered_set, :public, :named_table])

  def open(entry) do
    id = :erlang.unique_integer([:monotonic, :positive])
    :ets.insert(:log, {id, Map.merge(%{id: id, ended: "open"}, entry)})
    id
  end

  def update(id, changes) do
    case :ets.lookup(:log, id) do
      [{^id, entry}] -> :ets.insert(:log, {id, Map.merge(entry, changes)})
      [] -> false
    end
  end

  def all, do: for({_, entry} <- :ets.tab2list(:log), do: entry)
  def clear, do: :ets.delete_all_objects(:log)
end

defmodule StreamLog do
  @moduledoc """
  A Cowboy stream handler before the usual one. It sees each DATA frame and the stream's end before any request code
  does, so it can tell END_STREAM (a body that claims to be complete) from a reset (one that admits it is not).

  `ended` of an upload is one of

    complete          END_STREAM came, with all the bytes of content-length if that was given
    short             END_STREAM came too early (Cowboy itself refuses that when content-length was given: `refused`)
    reset             the peer sent RST_STREAM; `code` says with what
    refused           Cowboy broke the stream off because the peer broke the protocol; `code` and `text` say how
    closed            the connection went away under it (over HTTP/1.1 an abort looks like this)
    answered-early    the response was complete before the request, the rest of which was not wanted
    failed            the request process crashed
  """
  @behaviour :cowboy_stream

  @reset_codes [
    :no_error,
    :protocol_error,
    :internal_error,
    :flow_control_error,
    :settings_timeout,
    :stream_closed,
    :frame_size_error,
    :refused_stream,
    :cancel,
    :compression_error,
    :connect_error,
    :enhance_your_calm,
    :inadequate_security,
    :http_1_1_required,
    :unknown_error
  ]

  def init(stream_id, req, opts) do
    {commands, next} = :cowboy_stream.init(stream_id, req, opts)

    logged =
      if req.has_body do
        declared = if is_integer(req.body_length), do: req.body_length

        id =
          Log.open(%{
            kind: "upload",
            path: req.path,
            tag: Site.query(req, "tag"),
            version: to_string(req.version),
            content_length: declared,
            bytes: 0,
            end_stream: false
          })

        %{id: id, bytes: 0, end_stream: false, declared: declared}
      end

    {commands, {logged, next}}
  end

  def data(stream_id, is_fin, data, {logged, next}) do
    logged =
      if logged do
        logged = %{logged | bytes: logged.bytes + byte_size(data), end_stream: logged.end_stream or is_fin == :fin}
        Log.update(logged.id, %{bytes: logged.bytes, end_stream: logged.end_stream})
        logged
      end

    {commands, next} = :cowboy_stream.data(stream_id, is_fin, data, next)
    {commands, {logged, next}}
  end

  def info(stream_id, info, {logged, next}) do
    {commands, next} = :cowboy_stream.info(stream_id, info, next)
    {commands, {logged, next}}
  end

  def terminate(stream_id, reason, {logged, next}) do
    if logged, do: Log.update(logged.id, Map.merge(ending(reason, logged), %{reason: inspect(reason)}))
    :cowboy_stream.terminate(stream_id, reason, next)
  end

  def early_error(stream_id, reason, partial_req, response, opts),
    do: :cowboy_stream.early_error(stream_id, reason, partial_req, response, opts)

  defp ending(_reason, %{end_stream: true, declared: declared, bytes: bytes})
       when declared in [nil, bytes],
       do: %{ended: "complete"}

  defp ending(_reason, %{end_stream: true}), do: %{ended: "short"}

  # Cowboy 2.8 gives the bare code of a peer's RST_STREAM, later versions the tuple.
  defp ending({:stream_error, code, :"Stream reset by the client."}, _), do: %{ended: "reset", code: inspect_code(code)}
  defp ending(code, _) when code in @reset_codes, do: %{ended: "reset", code: inspect_code(code)}
  defp ending({:stream_error, code, text}, _), do: %{ended: "refused", code: inspect_code(code), text: to_string(text)}

  defp ending({:connection_error, code, text}, _),
    do: %{ended: "closed", code: inspect_code(code), text: to_string(text)}

  defp ending({:socket_error, code, text}, _), do: %{ended: "closed", code: inspect_code(code), text: to_string(text)}
  defp ending({:internal_error, _, _}, _), do: %{ended: "failed"}
  defp ending(:normal, _), do: %{ended: "answered-early"}
  defp ending(_, _), do: %{ended: "closed"}

  defp inspect_code(code) when is_atom(code), do: Atom.to_string(code)
  defp inspect_code(code), do: inspect(code)
end

defmodule Site do
  @moduledoc "What the handlers share: who we are, whose session it is, how we answer."

  def name, do: :persistent_term.get(:name)

  def query(req, key, default \\ nil) do
    case List.keyfind(:cowboy_req.parse_qs(req), key, 0) do
      {_, value} when is_binary(value) -> value
      _ -> default
    end
  end

  def number(req, key, default), do: req |> query(key, Integer.to_string(default)) |> String.to_integer()

  @doc "The session's name, and the request with a cookie set if the name is new."
  def session(req) do
    cookies = Map.new(:cowboy_req.parse_cookies(req))

    known =
      query(req, "sid") || :cowboy_req.header("tidelock", req, nil) || cookies["sid"] || cookies["session"] ||
        cookies["tidelock"]

    if known do
      {known, req}
    else
      made = Base.url_encode64(:crypto.strong_rand_bytes(9))
      {made, :cowboy_req.set_resp_cookie("sid", made, req, %{path: "/", http_only: true, same_site: :lax})}
    end
  end

  def count(session), do: :ets.update_counter(:sessions, session, 1, {session, 0})

  def json(req, status, body, headers \\ %{}) do
    headers = Map.merge(%{"content-type" => "application/json", "x-endpoint" => name()}, headers)
    :cowboy_req.reply(status, headers, Json.encode(body), req)
  end
end

defmodule Handler do
  @moduledoc "Plain requests, one clause of `handle` a path."

  def init(req, path) do
    req = handle(path, :cowboy_req.method(req), req)
    {:ok, req, path}
  end

  defp handle(:counter, "GET", req) do
    {session, req} = Site.session(req)
    Site.json(req, 200, %{endpoint: Site.name(), session: session, count: Site.count(session)})
  end

  defp handle(:page, "GET", req) do
    {session, req} = Site.session(req)
    headers = %{"content-type" => "text/html; charset=utf-8", "x-endpoint" => Site.name()}
    :cowboy_req.reply(200, headers, page(Site.name(), Site.count(session)), req)
  end

  defp handle(:headers, _method, req) do
    Site.json(req, 200, %{
      endpoint: Site.name(),
      method: req.method,
      version: to_string(req.version),
      scheme: req.scheme,
      host: req.host,
      path: req.path,
      headers: req.headers
    })
  end

  defp handle(:upload, "POST", req) do
    {bytes, hash, req} = read_all(req, 0, :crypto.hash_init(:sha256), Site.number(req, "read_ms", 0))
    sha256 = hash |> :crypto.hash_final() |> Base.encode16(case: :lower)
    Site.json(req, 200, %{endpoint: Site.name(), bytes: bytes, sha256: sha256, complete: true})
  end

  defp handle(:upload_ignored, "POST", req) do
    Site.json(req, 429, %{endpoint: Site.name(), error: "not now", complete: false}, %{"retry-after" => "1"})
  end

  defp handle(:half, "POST", req) do
    declared = :cowboy_req.body_length(req)
    half = if is_integer(declared), do: max(div(declared, 2), 1), else: 1
    {_, data, req} = :cowboy_req.read_body(req, %{length: half, period: 10_000})
    Site.json(req, 200, %{endpoint: Site.name(), bytes: byte_size(data), complete: false})
  end

  defp handle(:slow, "GET", req) do
    chunks = Site.number(req, "chunks", 10)
    req = :cowboy_req.stream_reply(200, %{"content-type" => "text/plain", "x-endpoint" => Site.name()}, req)

    for n <- 1..chunks//1 do
      if n > 1, do: Process.sleep(Site.number(req, "ms", 100))
      :cowboy_req.stream_body("#{Site.name()} #{n} of #{chunks}\n", if(n == chunks, do: :fin, else: :nofin), req)
    end

    req
  end

  defp handle(:log, "GET", req) do
    tag = Site.query(req, "tag")
    Site.json(req, 200, for(entry <- Log.all(), tag in [nil, entry.tag], do: entry))
  end

  defp handle(:log, "DELETE", req) do
    Log.clear()
    Site.json(req, 200, [])
  end

  defp handle(_path, _method, req), do: Site.json(req, 405, %{error: "method not allowed"})

  defp read_all(req, bytes, hash, pause) do
    if pause > 0, do: Process.sleep(pause)

    case :cowboy_req.read_body(req, %{length: 65_536, period: 60_000}) do
      {:more, data, req} -> read_all(req, bytes + byte_size(data), :crypto.hash_update(hash, data), pause)
      {:ok, data, req} -> {bytes + byte_size(data), :crypto.hash_update(hash, data), req}
    end
  end

  defp page(name, count) do
    """
    <!doctype html>
    <html lang="en">
    <head>
      <meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1">
      <link rel="icon" href="data:,">
      <title>#{escape(name)}</title>
      <style>
        body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 4rem auto; padding: 0 1rem }
        output { font-weight: 600 }
      </style>
    </head>
    <body>
      <h1>Served by <output id="endpoint">#{escape(name)}</output></h1>
      <p>You have been here <output id="count">#{count}</output> times. The count lives in this endpoint's memory.</p>
      <p>WebSocket: <output id="socket">connecting</output>, <output id="ticks">0</output> ticks.</p>
      <script>
        const show = (id, text) => { document.getElementById(id).textContent = text }
        let wait = 10
        const connect = () => {
          const socket = new WebSocket(new URL("/ws", location.href.replace(/^http/, "ws")))
          socket.onopen = () => { show("socket", "open"); wait = 10 }
          socket.onmessage = ({ data }) => {
            const message = JSON.parse(data)
            if (message.hello) show("socket", "open to " + message.hello)
            if (message.tick) show("ticks", message.tick)
          }
          socket.onclose = ({ code }) => {
            show("socket", "closed with " + code)
            setTimeout(connect, wait)
            wait = Math.min(wait * 2, 5000)
          }
        }
        connect()
      </script>
    </body>
    </html>
    """
  end

  defp escape(text), do: text |> String.replace("&", "&amp;") |> String.replace("<", "&lt;")
end

defmodule Events do
  @moduledoc "Server-sent events, by a loop handler: it lives until the client goes or the count is reached."

  def init(req, state) do
    headers = %{"content-type" => "text/event-stream", "cache-control" => "no-store", "x-endpoint" => Site.name()}
    req = :cowboy_req.stream_reply(200, headers, req)
    send(self(), {:tick, 1})
    {:cowboy_loop, req, state}
  end

  def info({:tick, n}, req, state) do
    event = %{event: "tick", id: Integer.to_string(n), data: Json.encode(%{endpoint: Site.name(), tick: n})}

    if n == Site.number(req, "n", 0) do
      :cowboy_req.stream_events(event, :fin, req)
      {:stop, req, state}
    else
      :cowboy_req.stream_events(event, :nofin, req)
      Process.send_after(self(), {:tick, n + 1}, Site.number(req, "ms", 1000))
      {:ok, req, state}
    end
  end
end

defmodule Socket do
  @moduledoc """
  The WebSocket: hello, echo, ticks. Its end goes into the log with the peer's close code. Cowlib 2.9 knows the codes
  1000 to 1003, 1007 to 1011 and 3000 to 4999 only: a close with 1012 is a bad frame to it (`cut`, answered with 1002).
  """

  def init(req, _) do
    tick_ms = if Site.query(req, "ticks") == "off", do: nil, else: Site.number(req, "tick_ms", 1000)
    {session, req} = Site.session(req)

    state = %{
      tick_ms: tick_ms,
      session: session,
      tag: Site.query(req, "tag"),
      version: to_string(req.version),
      log: nil
    }

    {:cowboy_websocket, req, state, %{idle_timeout: 600_000, max_frame_size: 16_777_216}}
  end

  def websocket_init(state) do
    id = Log.open(%{kind: "websocket", path: "/ws", tag: state.tag, version: state.version})
    if state.tick_ms, do: Process.send_after(self(), {:tick, 1}, state.tick_ms)
    {[{:text, Json.encode(%{hello: Site.name(), session: state.session})}], %{state | log: id}}
  end

  def websocket_handle({:text, "close " <> code}, state), do: {[{:close, String.to_integer(code), ""}], state}
  def websocket_handle({kind, data}, state) when kind in [:text, :binary], do: {[{kind, data}], state}
  def websocket_handle(_ping_or_pong, state), do: {[], state}

  def websocket_info({:tick, n}, state) do
    Process.send_after(self(), {:tick, n + 1}, state.tick_ms)
    {[{:text, Json.encode(%{endpoint: Site.name(), tick: n})}], state}
  end

  def websocket_info(_, state), do: {[], state}

  def terminate(_reason, _req, %{log: nil}), do: :ok

  def terminate(reason, _req, %{log: id}) do
    ending =
      case reason do
        {:remote, code, _} -> %{ended: "closed-by-peer", code: Integer.to_string(code)}
        :remote -> %{ended: "closed-by-peer", code: nil}
        :stop -> %{ended: "closed-by-us"}
        {:error, _} -> %{ended: "cut"}
        _ -> %{ended: "closed"}
      end

    Log.update(id, Map.put(ending, :reason, inspect(reason)))
    :ok
  end
end

name = System.get_env("NAME", "app")
:persistent_term.put(:name, name)
Log.start()
:ets.new(:sessions, [:set, :public, :named_table, write_concurrency: true])

{:ok, _} = Application.ensure_all_started(:cowboy)

dispatch =
  :cowboy_router.compile([
    {:_,
     [
       {"/", Handler, :page},
       {"/counter", Handler, :counter},
       {"/headers", Handler, :headers},
       {"/upload", Handler, :upload},
       {"/upload-ignored", Handler, :upload_ignored},
       {"/half", Handler, :half},
       {"/slow", Handler, :slow},
       {"/log", Handler, :log},
       {"/sse", Events, []},
       {"/ws", Socket, []}
     ]}
  ])

{:ok, ip} = "BIND" |> System.get_env("127.0.0.1") |> String.to_charlist() |> :inet.parse_address()

{:ok, _} =
  :cowboy.start_clear(
    :http,
    %{socket_opts: [ip: ip, port: "PORT" |> System.get_env("0") |> String.to_integer()], num_acceptors: 4},
    %{
      env: %{dispatch: dispatch},
      stream_handlers: [StreamLog, :cowboy_stream_h],
      # WebSockets on HTTP/2 streams (RFC 8441) besides HTTP/1.1 upgrades.
      enable_connect_protocol: true,
      # Quiet connections are the balancer's business in these tests; what is left is Cowboy's default.
      idle_timeout: 600_000,
      inactivity_timeout: 600_000,
      max_keepalive: 1_000_000
    }
  )

IO.puts("READY #{name} #{:ranch.get_port(:http)}")
Process.sleep(:infinity)
