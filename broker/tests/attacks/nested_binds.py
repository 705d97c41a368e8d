"""One observation multiplies a value by the depth of its binds."""
import sys; from wire import *
port=int(sys.argv[1]); pid=int(sys.argv[2]); groups=int(sys.argv[3]); size=int(sys.argv[4])
inn=Innocents(port,src='127.0.0.9'); inn.start(); time.sleep(.5); print('base',inn.report(),'rss',rss(pid))
peak=[0]; stop=[0]
def watch():
    while not stop[0]: peak[0]=max(peak[0],rss(pid)); time.sleep(.01)
threading.Thread(target=watch,daemon=True).start()
g=resolved(port,src='127.0.0.5')
for n in range(groups):
    p=Rec('_')
    for _ in range(240-n): p=Rec('bind',p)
    g.sendall(enc([obs(Rec('group',Rec('rec',Sym('x')),{0:p}),10+n,10+n)]))
time.sleep(.5)
a=resolved(port,src='127.0.0.5'); a.sendall(enc([msg(Rec('other',0))])); time.sleep(.1); t=time.time()
a.sendall(enc([msg(Rec('x','y'*size))])+enc([[1,Rec('S',Emb([0,77]))]])); a.settimeout(30)
try: print('author got',a.recv(400))
except Exception as e: print('author',repr(e))
print(f'{time.time()-t:.2f}s',inn.report(),'peak rss',peak[0]); time.sleep(1)
g.close(); a.close(); time.sleep(2); print('after',inn.report(),'rss',rss(pid)); stop[0]=1
