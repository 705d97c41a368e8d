"""Messages through slow caveats: up to 16 at a time under the dataspace's lock; who subscribes waits, and everybody behind it."""
import sys; from wire import *
port=int(sys.argv[1]); pid=int(sys.argv[2])
inn=Innocents(port,src='127.0.0.9'); inn.start()
s=resolved(port,src='127.0.0.9'); s.settimeout(60); lat=[]
def sub(n):
    for i in range(n):
        t=time.time(); s.sendall(enc([obs(rec('sub%d'%i,1),5,5),ret(5),[1,Rec('S',Emb([0,1]))]])); s.recv(1000); lat.append((time.time()-t)*1000); time.sleep(.01)
sub(50); print('base subscribe worst %.1f ms'%max(lat),inn.report())
any_=Rec('_'); R0=Rec('ref',0)
cav=[Rec('rewrite',any_,Rec('lit',7))]
for _ in range(3): cav+=[Rec('rewrite',BIND,Rec('arr',[R0]*20)),Rec('rewrite',any_,Rec('lit',[1]*50000))]
g=resolved(port,src='127.0.0.5'); g.settimeout(20)
g.sendall(enc([obs(rec('offer',1),7,2)])+enc([asr(Rec('offer',Emb([1,1]+cav)),3)])); time.sleep(.5); print(g.recv(200)[-20:])
g.settimeout(None)
th=threading.Thread(target=lambda: g.sendall(enc([msg(1,2)])*3000),daemon=True); th.start(); time.sleep(.3)
cpu=lambda: sum(map(int,open(f'/proc/{pid}/stat').read().split()[13:15]))
c0=cpu(); time.sleep(1); print('cpu ticks per s',cpu()-c0)
lat.clear(); sub(30); print('subscribe worst %.1f ms, mean %.1f'%(max(lat),sum(lat)/len(lat)),inn.report())
t=time.time(); x=resolved(port,src='127.0.0.5'); x.sendall(enc([obs(rec('offer',1),7,2)])); time.sleep(.3); print(x.recv(300)[-30:])
# One by one, with a Sync behind them.
x.settimeout(50); x.sendall(enc([msg(1,2)])*100+enc([[2,Rec('S',Emb([0,3]))]])); t=time.time(); print(x.recv(300)[:60]); print('100 messages took %.2f s'%(time.time()-t))
