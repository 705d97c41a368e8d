"""Attenuated observers: their caveats run on the author's time, under the dataspace's lock."""
import sys; from wire import *
port=int(sys.argv[1]); pid=int(sys.argv[2]); N=int(sys.argv[3])
inn=Innocents(port,src='127.0.0.9'); inn.start(); time.sleep(.5); print('base',inn.report(),'rss',rss(pid))
g=resolved(port,src='127.0.0.5'); g.settimeout(60)
any_=Rec('_'); R0=Rec('ref',0)
# Newest caveat runs first: last in the list. One long literal, then copies of it, and nothing in the end.
lit=Rec('rewrite',any_,Rec('lit',[1]*60000))
grow=Rec('rewrite',BIND,Rec('arr',[R0]*20))
cut=Rec('rewrite',any_,Rec('lit',1))
lists=lambda n:[Rec('reject',Rec('lit',n))]+[Rec('reject',any_)]+[cut,grow,cut,lit][1:2]+[lit]
first=[]
for n in range(N):
    cav=[Rec('reject',any_),cut]
    for _ in range(3): cav+=[grow,Rec('rewrite',any_,Rec('lit',[1]*(50000)))]
    cav=[Rec('rewrite',any_,Rec('lit',n))]+cav[:1]+cav[2:]
    g.sendall(enc([[1,Rec('A',Rec('Observe',rec('innocent',1),Emb([1,1]+cav)),10+n)]]))
g.sendall(enc([[1,Rec('S',Emb([0,1]))]])); print('observing',g.recv(100)[:20])
inn.report(); time.sleep(8); print('with',N,inn.report(),'rss',rss(pid))
