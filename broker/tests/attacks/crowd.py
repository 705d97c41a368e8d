"""Half-open connections, resets in the middle, peers that never read."""
import sys; from wire import *
import random
port=int(sys.argv[1]); pid=int(sys.argv[2]); inn=Innocents(port,src='127.0.0.9'); inn.start(); time.sleep(1); print('base',inn.report(),rss(pid))
import resource; resource.setrlimit(resource.RLIMIT_NOFILE,(resource.getrlimit(resource.RLIMIT_NOFILE)[1],)*2)
print('nofile',resource.getrlimit(resource.RLIMIT_NOFILE))
def phase(name,f):
    t=time.time(); f(); print(f'{name}: {time.time()-t:.1f}s',inn.report(),'rss',rss(pid),flush=True)
def half():
    ss=[]
    n=10000
    for i in range(n):
        try: s=conn(port,src=f'127.0.0.{2+i%5}')
        except OSError as e: print('stopped at',i,e); break
        k=i%4
        if k==1: s.sendall(b'\xb5')
        elif k==2: s.sendall(RES()[:30])
        elif k==3: s.sendall(RES()+b'\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M\xb2\xff\xff\x03'+b'x'*100)
        ss.append(s)
    time.sleep(1); print('open',len(ss),'rss',rss(pid))
    for s in ss: s.close()
def resets():
    full=RES()+enc([obs(rec('z',1),7,3)])+b''.join(enc([asr(Rec('z',i),100+i)]) for i in range(50))+enc([obs(BIND,8,4),[1,Rec('S',Emb([0,9]))]])
    for i in range(2500):
        s=conn(port,src='127.0.0.3'); s.sendall(full[:random.randrange(len(full)+1)])
        if i%2: s.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,struct.pack('ii',1,0))
        s.close()
def noread():
    # Forty that never read, one that publishes to them, until it is held back.
    ss=[resolved(port,rcv=2048,src='127.0.0.4',nodelay=i%2==0) for i in range(40)]
    for s in ss: s.sendall(enc([obs(rec('flood',1),7,3)]))
    time.sleep(.3)
    ps=[resolved(port,src='127.0.0.4') for _ in range(10)]
    total=0
    t=time.time()
    for p in ps: p.setblocking(False)
    m=enc([msg(Rec('flood','x'*500))])*100
    m2=enc([msg(Rec('flood','y'*50000))])*2
    m3=enc([e for i in range(100) for e in (asr(Rec('flood',i),500+i),ret(500+i))])
    while time.time()-t<8:
        for p in ps:
            try: total+=p.send(random.choice([m]))
            except BlockingIOError: pass
        time.sleep(.001)
    print('flooded',total,'rss',rss(pid))
    for s in ss+ps: s.close()
def syncs():
    s=resolved(port,src='127.0.0.5',rcv=2048); s.setblocking(False); b=enc([[1,Rec('S',Emb([0,9]))]])*1000; total=0; t=time.time()
    while time.time()-t<6:
        try: total+=s.send(b)
        except BlockingIOError: time.sleep(.001)
    print('sync bytes',total); s.close()
def flap():
    s=resolved(port,src='127.0.0.5'); r=resolved(port,src='127.0.0.5'); r.sendall(enc([obs(rec('q',1),7,3)]))
    b=b''.join(enc([asr(Rec('q',1),5)])+enc([ret(5)]) for _ in range(500)); t=time.time(); total=0
    r.settimeout(5)
    th=threading.Thread(target=lambda:[None for _ in iter(lambda:r.recv(1<<20),b'')],daemon=True); th.start()
    s.settimeout(20)
    while time.time()-t<6: s.sendall(b); total+=1000
    print('flaps',total); s.close(); r.shutdown(2); r.close()
def churn():
    # observers with a huge state that come and go
    a=resolved(port,src='127.0.0.5')
    a.sendall(b''.join(enc([asr(Rec('st',i),1000+i)]) for i in range(100000)))
    time.sleep(1)
    t=time.time(); n=0
    while time.time()-t<10:
        s=resolved(port,src='127.0.0.5',rcv=2048); s.sendall(enc([obs(rec('st',1),7,3)]))
        if n%3==0: s.sendall(enc([ret(3)]))
        if n%3==1: time.sleep(.01)
        s.close(); n+=1
    print('came and went',n); a.close()
for f in (half,resets,noread,syncs,flap,churn): phase(f.__name__,f); time.sleep(1); print('  after',inn.report(),'rss',rss(pid))
