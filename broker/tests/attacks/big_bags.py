"""Each of a client's equal observations has a bag of its own as large as the state."""
import sys; from wire import *
port=int(sys.argv[1]); pid=int(sys.argv[2]); S=int(sys.argv[3]); N=int(sys.argv[4])
inn=Innocents(port,src='127.0.0.9'); inn.start(); time.sleep(.5); print('base',inn.report(),'rss',rss(pid))
g=resolved(port,src='127.0.0.5',rcv=2048); g.settimeout(60); t=time.time()
b=b''.join(enc([asr(Rec('s',i),100000+i)]) for i in range(S))+enc([[1,Rec('S',Emb([0,1]))]])
g.sendall(b); g.recv(100); print(f'state of {S}: {len(b)} bytes, {time.time()-t:.1f}s rss',rss(pid))
b=b''.join(enc([obs(rec('s',1),10+i,10+i)]) for i in range(N))
t=time.time(); g.sendall(b); last=0; 
while time.time()-t<55 and rss(pid)<5500:
    time.sleep(1); r=rss(pid)
    if r==last: break
    last=r
print(f'{N} observations: {len(b)} bytes, {time.time()-t:.1f}s, rss',rss(pid),inn.report())
t=time.time(); g.close(); time.sleep(5); print('closed',inn.report(),'rss',rss(pid))
