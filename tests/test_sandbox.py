"Programs that misbehave are contained, reported as failed, and leave nothing: in every mode that this machine offers."
import asyncio, functools, os, secrets, signal, socket, subprocess, sys, tempfile, time
from pathlib import Path
import pytest
from agentark.sandbox import sandbox
from agentark.sandbox.sandbox import Limits, arun_code, isolation, passes, run_code

# what it does -> (program, the statuses it may be reported with)
MISBEHAVING = {
    "fork bomb":             ("import os\nwhile True: os.fork()", {"error", "timeout"}),
    "patient fork bomb":     ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", {"timeout"}),
    "double-forked daemons": ("import os, sys, time\nfor i in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(100)\n        os._exit(0)\nsys.exit(1)", {"error"}),
    "daemon with the pipes": ("import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(100)\n1/0", {"error"}),
    "thread bomb":           ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(100,)).start()", {"error", "timeout", "memory", "killed"}),
    "infinite loop":         ("while True: pass", {"timeout"}),
    "deaf to signals":       ("import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\ntime.sleep(100)", {"timeout"}),
    "8 GB of memory":        ("x = bytearray(8 << 30)", {"memory"}),
    "memory by many":        ("import os, time\nfor i in range(3): os.fork()\nx = b'1' * (60 << 20)\ntime.sleep(100)", {"error", "memory"}),
    "10 GB file":            ("with open('x', 'wb') as f:\n    for i in range(10_000): f.write(bytes(2**20))", {"error", "output"}),
    "10 GB in files":        ("for i in range(1000): open(f'x{i}', 'wb').write(bytes(10 * 2**20))", {"error", "output"}),
    "output flood":          ("while True: print('x'*9999)", {"output"}),
    "flood of errors":       ("import os\nwhile True: os.write(2, b'x'*9999)", {"output"}),
    "reading stdin":         ("input()", {"error"}),
    "exit":                  ("import sys; sys.exit(3)", {"error"}),
    "SystemExit":            ("raise SystemExit('no')", {"error"}),
    "a signal to itself":    ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", {"killed"}),
    "deep recursion in C":   ("import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {"error", "killed", "memory", "timeout"}),
    "its parent":            ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nraise SystemExit(1)", {"error"}),
    "all processes":         ("import os, signal; os.kill(-1, signal.SIGKILL)", {"error", "killed"}),
    "its process group":     ("import os, signal; os.killpg(0, signal.SIGKILL)", {"error", "killed"}),
    "outside its folder":    ("open('{elsewhere}/x', 'w')", {"error"}),
    "what is outside":       ("print(open('{elsewhere}/secret').read())", {"error"}),
    "the parent's memory":   ("import os\nfor p in ({parent}, os.getppid()): print(open(f'/proc/{{p}}/environ').read())", {"error"}),
    "raising its limits":    ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))", {"error"}),
    "a socket":              ("import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1).send(b'here')", {"error"}),
    "a datagram":            ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'here', ('127.0.0.1', {port}))", {"error"}),
}

@functools.cache
def offered(mode: str) -> bool:
    try: return sandbox._run(mode, {"main.py": "pass"}, limits=Limits(seconds=20))[0].ok
    except OSError: return False

@pytest.fixture(params=sandbox.MODES)
def mode(request, monkeypatch):
    if not offered(request.param): pytest.skip(f"this machine does not offer {request.param!r}")
    monkeypatch.setattr(sandbox, "_mode", lambda: (request.param, []))
    return request.param

def left(marker: str) -> list[str]:
    "Processes whose command line has this marker."
    out = []
    for p in Path("/proc").glob("[0-9]*/cmdline"):
        try: out += [str(p)]*(marker.encode() in p.read_bytes())
        except OSError: pass        # it has just ended
    return out

@pytest.fixture
def listener():
    "A port of this machine where somebody listens, and what arrived."
    arrived = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(server.getsockname()); udp.settimeout(0.1); server.settimeout(0.1)
        yield server.getsockname()[1], arrived
        for ask in (server.accept, lambda: udp.recvfrom(9)):
            try: arrived.append(ask())
            except TimeoutError: pass
        assert arrived == []

@pytest.fixture
def open_path():
    "A temporary folder that every user may enter and read, so that it takes the sandbox to forbid it."
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)

@pytest.mark.parametrize("what", MISBEHAVING)
def test_misbehaviour_is_contained(what, mode, open_path, listener, monkeypatch):
    program, statuses = MISBEHAVING[what]
    (open_path/"secret").write_text("swordfish")
    monkeypatch.setattr(tempfile, "tempdir", str(open_path))
    monkeypatch.setenv("SECRET", "swordfish")
    marker, before, start = secrets.token_hex(8), sorted(open_path.iterdir()), time.monotonic()
    ran = run_code(program.format(elsewhere=open_path, port=listener[0], parent=os.getpid()) if "{" in program and "f'x{i}'" not in program else program, args=[marker], limits=Limits(seconds=1, memory_mb=128))
    assert time.monotonic() - start < 8, "it took too long"
    assert ran.status in statuses and ("flood" not in what or ran.seconds < 1), ran
    assert "swordfish" not in ran.stdout + ran.stderr and len(ran.stdout) + len(ran.stderr) < 600_000
    assert left(marker) == [], "it left a process"
    assert sorted(open_path.iterdir()) == before, "it left a file"
    assert run_code("print(6*7)").stdout == "42\n", "the sandbox no longer works"

def test_the_environment_is_clean(mode, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "swordfish")
    ran = run_code("import os, subprocess; print(dict(os.environ))")
    assert ran.ok and "swordfish" not in ran.stdout and "PYTHONHASHSEED" in ran.stdout

def test_a_connection_would_arrive():
    "The check of the network above can fail: the same program outside the sandbox reaches the listener."
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        subprocess.run([sys.executable, "-c", MISBEHAVING["a socket"][0].format(port=server.getsockname()[1])], check=True)
        with server.accept()[0] as c: assert c.recv(4) == b"here"

def test_left_processes_would_be_found():
    marker = secrets.token_hex(8)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)", marker])
    try: wait_for(lambda: len(left(marker)) == 1)
    finally: child.kill(); child.wait()

CHEATS = ["import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit", "import os; os.close(1)", "import sys; sys.stdout.close()", "input()", "import builtins; builtins.exec = builtins.compile = print",
          "import os; os.write = print; os._exit(0)", "import sys; sys.modules.clear(); sys.exit(0)", "import os; os.kill(os.getpid(), 9)", "print('x'*10**7)", "while True: pass", "import os; os.closerange(0, 100)",
          "import atexit, os; atexit.register(os._exit, 0); sys = None; raise KeyboardInterrupt", "import os; os.execv('/bin/true', ['true'])"]

@pytest.mark.parametrize("cheat", CHEATS)
@pytest.mark.parametrize("where", ["at import", "under test"])
def test_only_the_end_of_the_tests_passes(cheat, where):
    program = f"{cheat}\ndef f(x): return 0" if where == "at import" else f"def f(x):\n    {cheat}\n    return 0"
    assert not passes(program, "assert f(1) == 1", Limits(seconds=1))

def test_right_programs_pass(mode):
    assert passes("def f(x): return 1", "assert f(1) == 1") and not passes("def f(x): return 2", "assert f(1) == 1")

@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_program_ends_with_its_caller(how, tmp_path):
    "An interrupt, or the end of the process that called `run_code`, ends the program."
    marker = secrets.token_hex(8)
    code = "import os; from agentark.sandbox.sandbox import *; print(isolation(), flush=True); run_code('import time; time.sleep(100)', args=[os.environ['MARKER']], limits=Limits(seconds=100))"
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path), "MARKER": marker})
    caller.stdout.readline()
    wait_for(lambda: left(marker))
    caller.send_signal(how)
    said = caller.communicate(timeout=4)[1]
    wait_for(lambda: not left(marker))
    if how == signal.SIGINT: assert "KeyboardInterrupt" in said and list(tmp_path.iterdir()) == []

def wait_for(what, seconds: float=10):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)

@pytest.mark.parametrize("ask", [arun_code, lambda *args: asyncio.to_thread(run_code, *args)], ids=["async", "threads"])
def test_many_at_once_take_turns(ask):
    "However many ask, no more programs run at once than there are processors; and the event loop goes on."
    marker, most, ticks = secrets.token_hex(8), 0, 0
    async def all():
        nonlocal most, ticks
        runs = asyncio.gather(*(ask(f"import time; time.sleep(0.1); print({i})", "main.py", [marker]) for i in range(12)))
        while not runs.done():
            most, ticks = max(most, len(left(marker))), ticks + 1
            await asyncio.sleep(0.01)
        return await runs
    results = asyncio.run(all())
    assert [r.stdout for r in results] == [f"{i}\n" for i in range(12)] and ticks > 5
    assert 1 <= most <= sandbox._processors

def test_processes_are_counted(mode):
    "As many as allowed, or none but its own where they cannot be counted."
    program = "import os, time\nn = 1\ntry:\n    while n < 50:\n        if not os.fork(): time.sleep(1); os._exit(0)\n        n += 1\nexcept OSError: pass\nprint(n)"
    assert run_code(program, limits=Limits(processes=5)).stdout in ({"user": ["5\n"], "namespace": ["5\n", "1\n"]}.get(mode, ["1\n"]))

def test_it_says_what_is_in_force():
    code = "from agentark.sandbox.sandbox import *; run_code('pass'); run_code('pass'); print(isolation())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("sandbox:") == 1 and done.stdout.strip() == str(isolation())
    assert all(layer in done.stderr for layer in isolation())
